"""Checking a publication by itself: no database, no account, no network.

Everything hangs on the statement. Its signature says who stated it, its hashes which files it is about; the card and
the evidence among those are then held against the numbers in it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from flagrelease.errors import PreflightError, PublishError
from flagrelease.provenance.card_check import CARD, card_problems, numbers_of
from flagrelease.provenance.dsse import EnvelopeError, open_envelope, unverified_payload
from flagrelease.provenance.folder import EVIDENCE, Folder, file_problems
from flagrelease.provenance.keys import ID_SHOWN, PublicKey, read_public_key
from flagrelease.provenance.report import Check, KeyUsed, Report, State, check_of
from flagrelease.provenance.statement import (
    ENVELOPE_FILE,
    KEY_FILE,
    STATEMENT_FILE,
    Statement,
    StatementError,
    read_statement,
)
from flagrelease.publish.interface import MANIFEST
from flagrelease.publish.interface import stated as listed
from flagrelease.verdicts import GateResult

VERDICT_FILE = f"{EVIDENCE}verdict.json"

MOST_NAMES = 6
"""Of files that are no part of a publication, on a page about it."""

Recompute = Callable[[Statement, Callable[[str], bytes | None]], Sequence[Check]]
"""Computes numbers again from the answers of a statement's publication, whose files it reads by path."""


def published_names(read: Callable[[str], bytes | None]) -> set[str]:
    """All files that a publication may be said to have, whoever says so: by its statement, signed or not, and manifest.

    `read` gives a file by its name; none where it is not there.
    """
    names = {CARD, MANIFEST, STATEMENT_FILE, ENVELOPE_FILE, KEY_FILE}
    names |= {file.path for file in listed(read(MANIFEST) or b"") or ()}
    for content in (read(STATEMENT_FILE) or b"", _payload(read(ENVELOPE_FILE) or b"")):
        with suppress(StatementError):
            names |= read_statement(content).files.keys()
    return names


class _Signed(NamedTuple):
    """The statement's bytes, who signed them, and what is wrong with that."""

    content: bytes
    key: KeyUsed | None
    problems: list[str]


def verify_folder(
    path: Path,
    trusted: PublicKey | None,
    recompute: Recompute,
    *,
    place: str | None = None,
    beside: Sequence[str] = (),
) -> Report:
    """What a publication in a folder proves. `trusted`: the public key of whom it should be from.

    `place`: where it was downloaded from, by default the folder; `beside`: names of files that lie there too and were
    not downloaded. Raises PublishError where the folder is no publication with a statement, or one of another
    FlagRelease.
    """
    folder = Folder(path, place=place, beside=beside)
    signed = _signed(folder, trusted)
    try:
        stated = read_statement(signed.content)
    except StatementError as error:
        raise PublishError(
            f"{STATEMENT_FILE} in {folder.place} is no statement that this FlagRelease can read: {error}",
            remedy="if the release was made by a newer FlagRelease, check it with that one; else do not use it",
        ) from None
    folder.leave_out_others(stated.files)

    def published(name: str) -> bytes | None:
        """A file as it was published: of one that was changed nothing follows."""
        return folder.read(name) if folder.hashes.get(name) == stated.files.get(name) else None

    whose = f"signed by the key {signed.key.id[:ID_SHOWN]}" if signed.key else ""
    checks = [
        check_of("signature", signed.problems, whose),
        check_of("files", file_problems(folder, stated.files, {STATEMENT_FILE, ENVELOPE_FILE}), _all_there(stated)),
        _card(folder, stated),
        _verdict(folder, stated),
        *recompute(stated, published),
    ]
    measured = stated.measured
    return Report(
        place=folder.place,
        release=measured.release,
        cell=measured.cell,
        verdict=measured.gate.verdict,
        code_version=stated.code_version,
        key=signed.key,
        checks=checks,
        proven=_proven(checks, signed.key, stated),
        not_proven=_not_proven(checks, signed.key, stated, folder),
    )


def _signed(folder: Folder, trusted: PublicKey | None) -> _Signed:
    """The statement as it was signed; where no signature holds, as it lies there, with what is wrong."""
    plain, envelope = folder.read(STATEMENT_FILE), folder.read(ENVELOPE_FILE)
    if plain is None and envelope is None:
        raise PublishError(
            f"{folder.place} is no publication to be checked: it has neither {STATEMENT_FILE} nor {ENVELOPE_FILE}",
            remedy="name the folder or repository that a release was published to; publications of older versions of "
            "FlagRelease have no statement",
        )
    if envelope is None:
        return _Signed(plain or b"", None, [f"{ENVELOPE_FILE}: is missing, so nobody vouches for this release"])
    beside = _key_beside(folder)
    key = trusted or beside
    if key is None:
        problem = f"{KEY_FILE}: is missing or no public key, so the signature cannot be checked"
        return _Signed(plain or _payload(envelope), None, [problem])
    try:
        opened = open_envelope(envelope, [key])
    except EnvelopeError as error:
        problem = f"{ENVELOPE_FILE}: {error}"
        if trusted and beside and _is_signed(envelope, beside):
            problem = f"{ENVELOPE_FILE}: it is signed by the key {beside.id}, not by the one given, {trusted.id}"
        return _Signed(plain or _payload(envelope), None, [problem])
    problems = [] if plain == opened.payload else [f"{STATEMENT_FILE}: is not what was signed"]
    return _Signed(opened.payload, KeyUsed(id=key.id, given=trusted is not None), problems)


def _key_beside(folder: Folder) -> PublicKey | None:
    try:
        return read_public_key(folder.read(KEY_FILE) or b"", KEY_FILE)
    except PreflightError:
        return None


def _is_signed(envelope: bytes, key: PublicKey) -> bool:
    try:
        return bool(open_envelope(envelope, [key]))
    except EnvelopeError:
        return False


def _payload(envelope: bytes) -> bytes:
    try:
        return unverified_payload(envelope)
    except EnvelopeError:
        return b""


def _all_there(stated: Statement) -> str:
    return f"{len(stated.files)} files are those that were published; none is missing, none was added"


def _card(folder: Folder, stated: Statement) -> Check:
    """Whether the card says what is stated."""
    content = folder.read(CARD)
    if content is None:
        return check_of("card", [f"{CARD}: is missing"], "")
    # As they lie there: swapped files are another evidence, whatever the statement says.
    evidence = {
        name.removeprefix(EVIDENCE): sha256 for name, sha256 in folder.hashes.items() if name.startswith(EVIDENCE)
    }
    count = numbers_of(stated.measured)
    detail = f"its {count} numbers in the results table, its front matter and its model index are as stated"
    return check_of("card", card_problems(content, stated.measured, evidence), detail)


def _verdict(folder: Folder, stated: Statement) -> Check:
    """Whether the gate's own file says what is stated."""
    try:
        content = folder.read(VERDICT_FILE)
        same = content is not None and GateResult.model_validate_json(content) == stated.measured.gate
    except ValidationError:
        same = False
    problems = [] if same else [f"{VERDICT_FILE}: is missing, or says otherwise than {STATEMENT_FILE}"]
    return check_of("verdict", problems, "the gate's file of its verdict says what is stated")


def _proven(checks: Sequence[Check], key: KeyUsed | None, stated: Statement) -> list[str]:
    """What the checks show together, for whoever wants to use the release."""
    state = {check.name: check.state for check in checks}
    measured = stated.measured
    said = []
    if key and state["signature"] is State.PROVEN:
        said.append(
            f"the holder of the key {key.id[:ID_SHOWN]}, which you gave, states these files and numbers"
            if key.given
            else f"whoever holds the key {key.id[:ID_SHOWN]} states these files and numbers; nobody changed them since"
        )
    if state["files"] is state["card"] is State.PROVEN:
        said.append("the card shows the numbers that are stated, and the evidence is the one that it names")
    if state.get("answers") is State.PROVEN:
        said.append("the scores, n and intervals follow from the published answers")
    if state.get("gate") is State.PROVEN:
        said.append(
            f"the verdict {measured.gate.verdict} follows from these answers and those of the baseline "
            f"{measured.gate.baseline_id}, by the stated thresholds"
        )
    return said


def _not_proven(checks: Sequence[Check], key: KeyUsed | None, stated: Statement, folder: Folder) -> list[str]:
    """What nobody can see from these files."""
    measured = stated.measured
    said = [check.detail for check in checks if check.state is State.NOT_PROVEN]
    if key and not key.given:
        said.append(
            "origin: the key lies beside what it signed, so anybody could have made both. Get the publisher's public "
            "key by another way than this folder, then: --key PUBLIC.pem"
        )
    elif key:
        said.append("whose the key is: you know that from where you got it")
    said += [
        f"that the answers were given by {measured.candidate.model} on {measured.candidate.chip}: whoever signed says "
        f"so. To see for yourself: flagrelease release {measured.cell}",
        f"that the weights that you have are those that were measured, of the hash {measured.candidate.weights_sha256}",
    ]
    told = [name for name, there in (("canary", measured.gate.canary), ("throughput", measured.gate.speed)) if there]
    if any(check.name == "operators" for check in measured.gate.hygiene):
        told.append("operators that ran")
    if told:
        said.append(f"{', '.join(told)}: taken as the server told it once")
    if folder.model_files:
        first, more = folder.model_files[:MOST_NAMES], len(folder.model_files) - MOST_NAMES
        names = ", ".join(first) + (f" and {more} more" if more > 0 else "")
        said.append(f"the model's own files, which are no part of the release and were not looked at: {names}")
    if folder.left_out:
        said.append(f"what a hub or its client put there was not looked at: {', '.join(folder.left_out)}")
    return said
