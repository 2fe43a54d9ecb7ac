"""Keys that sign releases: Ed25519 (RFC 8032), private ones as PKCS #8 in PEM, public ones as PEM.

The private key leaves this module only as the object that signs. No message, representation or file made here holds it,
but the key's own file.
"""

from __future__ import annotations

import hashlib
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from flagrelease.errors import FlagReleaseError, OutputError, PreflightError, UnknownNameError
from flagrelease.yaml_file import suggest

VARIABLE = "FLAGRELEASE_SIGNING_KEY"
"""Names the private key's file, or holds the key itself. No field of the settings, which are shown and passed on."""

FOLDER = "keys"
ID_SHOWN = 16
_MARK = "-----BEGIN"
_MAX_BYTES = 10_000


class PublicKey:
    """A public key. Its id is the SHA-256 (hex) of its DER, as SubjectPublicKeyInfo."""

    def __init__(self, key: Ed25519PublicKey) -> None:
        self._key = key
        der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        self.id = hashlib.sha256(der).hexdigest()

    def __repr__(self) -> str:
        """The key's id."""
        return f"PublicKey({self.id})"

    @property
    def pem(self) -> bytes:
        """The key as PEM."""
        return self._key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)

    def signed(self, signature: bytes, message: bytes) -> bool:
        """Whether `signature` is one of this key over `message`."""
        try:
            self._key.verify(signature, message)
        except InvalidSignature:
            return False
        return True


class SigningKey:
    """A private key. It can sign and say its public half; nothing else of it can be had."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public = PublicKey(key.public_key())

    def __repr__(self) -> str:
        """The id of the public half."""
        return f"SigningKey({self.public.id})"

    def sign(self, message: bytes) -> bytes:
        """The signature over `message`, 64 bytes."""
        return self._key.sign(message)


class KeptKey(NamedTuple):
    """A key that can sign, and where it is."""

    key: SigningKey
    place: str
    signs: bool
    """Whether releases of this host are signed with it."""


def create_key(home: Path) -> KeptKey:
    """Make a key and keep it in `home`, in a file that only its owner can read.

    Raises PreflightError where there is one already: which of two signs would be anybody's guess.
    """
    folder = home / FOLDER
    if found := _files(folder):
        raise PreflightError(
            f"there is a key already: {found[0]}",
            remedy="sign with that one; to change keys move its file away first, and keep its public key: what it "
            "signed can be checked with that only",
        )
    key = Ed25519PrivateKey.generate()
    kept = SigningKey(key)
    place = folder / f"{kept.public.id[:ID_SHOWN]}.pem"
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    aside = folder / f".{place.name}.{os.getpid()}"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(pem)
            file.flush()
            os.fsync(file.fileno())
        aside.rename(place)
    except OSError as error:
        with suppress(OSError):
            aside.unlink()
        raise OutputError(
            f"cannot keep a key in {folder}: {error.strerror}",
            remedy="free space, or set FLAGRELEASE_HOME to a place that can be written",
        ) from None
    return KeptKey(kept, str(place), signs=not os.environ.get(VARIABLE))


def signing_key(home: Path) -> SigningKey | None:
    """The key that releases of this host are signed with; none where there is none.

    It is the one that FLAGRELEASE_SIGNING_KEY gives, else the one in `home`. Raises PreflightError where that cannot be
    read, where others may read it, or where there are several.
    """
    if given := os.environ.get(VARIABLE):
        return _given(given)
    files = _files(home / FOLDER)
    if len(files) > 1:
        raise PreflightError(
            f"there are {len(files)} keys in {home / FOLDER}: {', '.join(path.name for path in files)}",
            remedy=f"name the one that signs: {VARIABLE}=<file>; or move the others away",
        )
    return _from_own_file(files[0]) if files else None


def keys(home: Path) -> list[KeptKey]:
    """Every key of this host that can sign, the one that does first. Raises as `signing_key` does."""
    signs = signing_key(home)
    given = bool(os.environ.get(VARIABLE))
    own = [KeptKey(_from_own_file(path), str(path), signs=not given) for path in _files(home / FOLDER)]
    return [KeptKey(signs, VARIABLE, signs=True), *own] if given and signs else own


def find_key(home: Path, name: str | None) -> PublicKey:
    """The public half of the key whose id begins with `name`, or of the one that signs; raises UnknownNameError."""
    there = keys(home)
    if not there:
        raise UnknownNameError("there is no key on this host", remedy="make one: flagrelease keys create")
    if name is None:
        return there[0].key.public
    fitting = {kept.key.public.id: kept.key.public for kept in there if kept.key.public.id.startswith(name)}
    if len(fitting) != 1:
        raise UnknownNameError(
            f"{'no key' if not fitting else 'more than one key'} of this host begins with `{name}`",
            remedy=suggest(name, [kept.key.public.id[:ID_SHOWN] for kept in there]),
        )
    return next(iter(fitting.values()))


def read_public_key(content: bytes, name: str) -> PublicKey:
    """The public key in the content of the file `name`; raises PreflightError where there is none that is supported."""
    remedy = "give the public key as `flagrelease keys show` prints it: PEM, Ed25519"
    if b"PRIVATE KEY" in content:
        raise PreflightError(f"{name} is a private key, which nobody but its owner needs", remedy=remedy)
    try:
        key = serialization.load_pem_public_key(content)
    except (ValueError, UnsupportedAlgorithm):
        raise PreflightError(f"{name} is no public key in PEM", remedy=remedy) from None
    if not isinstance(key, Ed25519PublicKey):
        raise PreflightError(f"{name} is a public key of another kind than Ed25519", remedy=remedy)
    return PublicKey(key)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("[!.]*.pem") if path.is_file())


def _from_own_file(path: Path) -> SigningKey:
    try:
        with path.open("rb") as file:
            open_to_others = stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077
            content = file.read(_MAX_BYTES)
    except OSError as error:
        raise PreflightError(f"cannot read the key {path}: {error.strerror}", remedy=f"chmod 600 {path}") from None
    if open_to_others:
        raise PreflightError(
            f"the private key {path} may be read or written by others",
            remedy=f"chmod 600 {path}; if others could read it, make another key and say that this one is void",
        )
    return _private(content, str(path))


def _given(value: str) -> SigningKey:
    """The key that the variable names or holds. What it holds may be a key in a wrong form, so it is never shown."""
    if value.lstrip().startswith(_MARK):
        return _private(value.encode(errors="replace"), VARIABLE)
    try:
        with Path(value).expanduser().open("rb") as file:
            content = file.read(_MAX_BYTES)
    except (OSError, ValueError, RuntimeError):
        raise PreflightError(
            f"{VARIABLE} names no file that can be read, and is no private key in PEM",
            remedy="name the file of the key that signs, give its content whole with its line ends, or unset it",
        ) from None
    return _private(content, f"the file that {VARIABLE} names")


def _private(content: bytes, place: str) -> SigningKey:
    cause = "is no private key in PEM"
    try:
        key = serialization.load_pem_private_key(content, password=None)
    except TypeError:
        cause = "is locked with a passphrase, which nobody could be asked for"
    except (ValueError, UnsupportedAlgorithm):
        pass
    else:
        if isinstance(key, Ed25519PrivateKey):
            return SigningKey(key)
        cause = "is a private key of another kind than Ed25519"
    raise _unusable(place, cause)


def _unusable(place: str, cause: str) -> FlagReleaseError:
    remedy = "make one: flagrelease keys create; or: openssl genpkey -algorithm ed25519"
    return PreflightError(f"{place} {cause}", remedy=remedy)
