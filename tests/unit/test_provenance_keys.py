"""Keys: who may read them, which one signs, and that the private half is nowhere to be seen."""

from __future__ import annotations

import base64
import os
import pickle
import stat
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from flagrelease.errors import FlagReleaseError, OutputError, PreflightError, UnknownNameError
from flagrelease.provenance.keys import (
    VARIABLE,
    SigningKey,
    create_key,
    find_key,
    keys,
    read_public_key,
    signing_key,
)
from tests.unit.command_line import Run
from tests.unit.published_release import answers, publish, released, world


def pem_of(key: object, password: bytes | None = None) -> bytes:
    assert isinstance(key, Ed25519PrivateKey | ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey)
    locked = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, locked)


@pytest.fixture(autouse=True)
def no_key_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return Run(monkeypatch, capsys)


def test_a_new_key_can_be_read_by_its_owner_only(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        kept = create_key(tmp_path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(Path(kept.place).stat().st_mode) == 0o600
    assert stat.S_IMODE(Path(kept.place).parent.stat().st_mode) == 0o700
    assert [path.name for path in Path(kept.place).parent.iterdir()] == [f"{kept.key.public.id[:16]}.pem"]
    found = signing_key(tmp_path)
    assert found is not None
    assert found.public.id == kept.key.public.id
    assert kept.key.public.signed(found.sign(b"x"), b"x")
    assert not kept.key.public.signed(found.sign(b"x"), b"y")


def test_the_id_is_the_hash_of_the_der(tmp_path: Path) -> None:
    kept = create_key(tmp_path)
    (tmp_path / "public.pem").write_bytes(kept.key.public.pem)
    der = subprocess.run(
        ["openssl", "pkey", "-pubin", "-in", tmp_path / "public.pem", "-outform", "DER"],
        capture_output=True,
        check=True,
    ).stdout
    digest = subprocess.run(["sha256sum"], input=der, capture_output=True, check=True).stdout.split()[0].decode()
    assert kept.key.public.id == digest


def test_a_second_key_is_refused(tmp_path: Path) -> None:
    first = create_key(tmp_path)
    with pytest.raises(PreflightError, match="there is a key already"):
        create_key(tmp_path)
    assert [kept.key.public.id for kept in keys(tmp_path)] == [first.key.public.id]


def test_without_a_key_nothing_signs(tmp_path: Path) -> None:
    assert signing_key(tmp_path) is None
    with pytest.raises(UnknownNameError, match="no key on this host"):
        find_key(tmp_path, None)


def test_a_key_that_others_can_read_does_not_sign(tmp_path: Path) -> None:
    place = Path(create_key(tmp_path).place)
    for mode in (0o640, 0o604, 0o620):
        place.chmod(mode)
        with pytest.raises(PreflightError, match="may be read or written by others"):
            signing_key(tmp_path)


def test_of_several_keys_none_is_guessed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = Path(create_key(tmp_path).place)
    other = place.with_name("other.pem")
    other.touch(mode=0o600)
    other.write_bytes(pem_of(Ed25519PrivateKey.generate()))
    with pytest.raises(PreflightError, match="2 keys"):
        signing_key(tmp_path)
    monkeypatch.setenv(VARIABLE, str(other))
    assert [(kept.signs, kept.place) for kept in keys(tmp_path)] == [
        (True, VARIABLE),
        (False, str(place)),
        (False, str(other)),
    ]


@pytest.mark.parametrize("as_file", [True, False])
def test_the_variable_names_the_key_or_holds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, as_file: bool) -> None:
    created = create_key(tmp_path)
    own = Ed25519PrivateKey.generate()
    (tmp_path / "own").write_bytes(pem_of(own))
    monkeypatch.setenv(VARIABLE, str(tmp_path / "own") if as_file else pem_of(own).decode())
    found = signing_key(tmp_path)
    assert found is not None
    assert found.public.id == SigningKey(own).public.id != created.key.public.id


def test_a_given_key_signs_whatever_lies_in_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    created = create_key(tmp_path)
    monkeypatch.setenv(VARIABLE, "")
    assert [kept.signs for kept in keys(tmp_path)] == [True]
    own = Ed25519PrivateKey.generate()
    monkeypatch.setenv(VARIABLE, pem_of(own).decode())
    Path(created.place).chmod(0o644)
    found = signing_key(tmp_path)
    assert found is not None
    assert found.public.id == SigningKey(own).public.id


def wrong_keys() -> dict[str, bytes]:
    own = Ed25519PrivateKey.generate()
    return {
        "no private key in PEM": pem_of(own)[:-40],
        "locked with a passphrase": pem_of(own, b"secret"),
        "another kind than Ed25519": pem_of(ec.generate_private_key(ec.SECP256R1())),
    }


@pytest.mark.parametrize("words", wrong_keys())
@pytest.mark.parametrize("where", ["home", "file", "content"])
def test_what_cannot_sign_is_told_and_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str, where: str
) -> None:
    content = wrong_keys()[words]
    place = tmp_path / "keys" / "a.pem"
    place.parent.mkdir()
    place.touch(mode=0o600)
    if where == "content":
        monkeypatch.setenv(VARIABLE, content.decode())
    else:
        place.write_bytes(content)
    if where == "file":
        monkeypatch.setenv(VARIABLE, str(place))
    if where == "content":
        place.unlink()
    with pytest.raises(PreflightError, match=words) as raised:
        signing_key(tmp_path)
    assert_not_said(content, raised.value)


@pytest.mark.parametrize("form", ["bare", "one line", "long"])
def test_a_key_in_a_wrong_form_is_not_taken_for_a_files_name_to_show(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    pem = pem_of(Ed25519PrivateKey.generate())
    body = b"".join(pem.splitlines()[1:-1])
    given = {"bare": body, "one line": pem.replace(b"\n", b"\\n"), "long": body * 200}[form]
    monkeypatch.setenv(VARIABLE, given.decode())
    with pytest.raises(PreflightError, match=VARIABLE) as raised:
        signing_key(tmp_path)
    assert_not_said(pem, raised.value)


def assert_not_said(pem: bytes, error: FlagReleaseError) -> None:
    """Neither the error nor what it came from shows a line of the key."""
    assert error.__cause__ is None
    assert error.__suppress_context__ or error.__context__ is None
    for line in pem.splitlines()[1:-1]:
        assert line.decode()[:20] not in f"{error} {error!r}"


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("a file")
    with pytest.raises(OutputError, match="cannot keep a key"):
        create_key(tmp_path)


def test_public_keys_are_read_and_nothing_else(tmp_path: Path) -> None:
    own = create_key(tmp_path)
    assert read_public_key(own.key.public.pem, "k").id == own.key.public.id
    rsa_key = rsa.generate_private_key(65537, 2048).public_key()
    other = rsa_key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    for content, words in ((b"x", "no public key"), (other, "another kind"), (Path(own.place).read_bytes(), "private")):
        with pytest.raises(PreflightError, match=words):
            read_public_key(content, "k")


def test_keys_are_found_by_the_first_digits_of_their_id(tmp_path: Path) -> None:
    own = create_key(tmp_path).key.public
    assert find_key(tmp_path, own.id[:6]).id == find_key(tmp_path, None).id == own.id
    with pytest.raises(UnknownNameError, match="no key of this host begins with"):
        find_key(tmp_path, "xyz")


def test_the_private_key_is_in_no_output_and_no_file_but_its_own(home: Path, run: Run) -> None:
    said = []
    for command in (("keys", "create"), ("keys", "list"), ("keys", "show"), ("keys", "create")):
        run(*command)
        said.append(run.out + run.err)
    key = signing_key(home / "home")
    assert key is not None
    (place,) = (home / "home" / "keys").iterdir()
    here = world(home / "elsewhere")
    folder = publish(here, released(here, answers()), key)
    for option in ([], ["--json"]):
        assert run("verify", str(folder), *option) == 0
        said.append(run.out + run.err)
    with pytest.raises(TypeError):
        pickle.dumps(key)
    loaded = serialization.load_pem_private_key(place.read_bytes(), None)
    assert isinstance(loaded, Ed25519PrivateKey)
    seed = loaded.private_bytes_raw()
    secrets = [seed, seed.hex().encode(), base64.b64encode(seed)[:-2], *place.read_bytes().splitlines()[1:-1]]
    files = [path for path in home.rglob("*") if path.is_file() and path != place]
    assert len(files) > 10
    for content in (repr(key).encode(), *map(str.encode, said), *(path.read_bytes() for path in files)):
        assert not any(secret in content for secret in secrets)
    assert "PRIVATE" not in "".join(said)
