"""The files of a publication as they lie in a folder: published there, or downloaded from a hub."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Collection, Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path

from flagrelease.errors import PublishError
from flagrelease.publish.interface import MANIFEST, stated

ATTRIBUTES = ".gitattributes"
"""Both hubs put one into a repository that has none."""
KEPT_BY_CLIENTS = (".git", ".cache/huggingface")
"""What git and the hubs' clients keep in a folder; it is not looked at."""
EVIDENCE = "evidence/"
MODEL_FILES = (
    *("*.safetensors", "*.safetensors.index.json", "*.gguf"),
    *("config.json", "configuration.json", "generation_config.json", "quantize_config.json"),
    *("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json"),
    *(
        "tokenizer.json",
        "tokenizer.model",
        "tokenizer_config.json",
        "*.tiktoken",
        "spiece.model",
        "sentencepiece.*.model",
    ),
    *("vocab.json", "vocab.txt", "merges.txt", "added_tokens.json", "special_tokens_map.json"),
    *("chat_template.jinja", "chat_template.json", "LICENSE", "LICENSE.md", "LICENSE.txt"),
)
"""Names of a model's own files, which lie in a hub's repository beside what FlagRelease publishes. Nobody stated their
hashes, so nothing is said of them. What runs on its reader's machine is not among them, such as Python code and pickled
weights (`*.bin`): where nobody vouches for it, that is wrong.
"""

_PART = 1 << 20


class Folder:
    """Files with their hashes. Links are followed, as a hub's cache is made of them; what is no file is listed."""

    def __init__(self, path: Path, *, place: str | None = None, beside: Iterable[str] = ()) -> None:
        """`place`: what people call it; `beside`: names of files that belong to it and were not downloaded."""
        self.path, self.place = path, place or str(path)
        self.hashes: dict[str, str] = {}
        self.absent: set[str] = set()
        """Names of files that lie where it came from, and not here."""
        self.model_files: list[str] = []
        """A model's own files, here or where it came from, that were not published: nobody looked at them."""
        self.odd: dict[str, str] = {}
        """What stands there and is no file that can be read, and why."""
        self.left_out: list[str] = []
        """What hubs and their clients put there, and nobody looked at."""
        if not path.is_dir():
            raise PublishError(
                f"there is no folder {path}",
                remedy="name the folder of a publication, or its repository on a hub: "
                "organisation/name --hub huggingface|modelscope",
            )
        for name in _names(path):
            self._look(name)
        for name in beside:
            if name == ATTRIBUTES:
                self.left_out.append(name)
            elif is_model_file(name):
                self.model_files.append(name)
            else:
                self.absent.add(name)

    def read(self, name: str) -> bytes | None:
        """The content of a file; none where it is not there."""
        return (self.path / name).read_bytes() if name in self.hashes else None

    def leave_out_others(self, published: Collection[str]) -> None:
        """Do not look at a hub's own ATTRIBUTES and a model's own files, where they were not `published`."""
        if ATTRIBUTES in self.hashes and ATTRIBUTES not in published:
            del self.hashes[ATTRIBUTES]
            self.left_out.insert(0, ATTRIBUTES)
        for name in [name for name in self.model_files if name in published]:
            self.model_files.remove(name)
            self._hash(name)

    def _look(self, name: str) -> None:
        if kept := next((each for each in KEPT_BY_CLIENTS if name == each or name.startswith(f"{each}/")), None):
            if kept not in self.left_out:
                self.left_out.append(kept)
            return
        if is_model_file(name):
            # It may be large, and is most likely none of the published ones.
            self.model_files.append(name)
        else:
            self._hash(name)

    def _hash(self, name: str) -> None:
        path = self.path / name
        try:
            # Asked before it is opened: a pipe would never end.
            if not stat.S_ISREG(path.stat().st_mode):
                self.odd[name] = "it is no file"
                return
            self.hashes[name] = _sha256(path)
        except OSError as error:
            self.odd[name] = f"it cannot be read: {error.strerror}"


def file_problems(folder: Folder, published: Mapping[str, str], own: set[str]) -> list[str]:
    """Files that are changed, missing or added against what was published. `own`: those that no statement can name."""
    there = folder.hashes.keys() | folder.odd.keys()
    problems = [f"{name}: {cause}" for name, cause in folder.odd.items()]
    problems += [
        f"{name}: is not the file that was published: its SHA-256 is {folder.hashes[name]}, not {sha256}"
        for name, sha256 in sorted(published.items())
        if folder.hashes.get(name, sha256) != sha256
    ]
    problems += [f"{name}: is missing" for name in sorted(published.keys() - there)]
    added = (folder.hashes.keys() | folder.absent) - published.keys() - own
    if MANIFEST in added:
        added = added - {MANIFEST}
        problems += _manifest_problems(folder)
    return problems + [f"{name}: was added, it is not among the published files" for name in sorted(added)]


def _manifest_problems(folder: Folder) -> list[str]:
    """What is wrong with the manifest, which publishers write beside the files: it names exactly those there."""
    files = stated(folder.read(MANIFEST) or b"")
    if files is None:
        return [f"{MANIFEST}: it is no manifest of a publication, or was changed"]
    listed = {file.path: file.sha256 for file in files}
    here = {name: sha256 for name, sha256 in folder.hashes.items() if name != MANIFEST}
    wrong = sorted(name for name in listed.keys() | here.keys() if listed.get(name) != here.get(name))
    return [f"{MANIFEST}: it does not fit {', '.join(wrong)}"] if wrong else []


def is_model_file(name: str) -> bool:
    """Whether a path is one of MODEL_FILES; evidence is none, whatever its name."""
    base = name.rpartition("/")[2]
    return not name.startswith(EVIDENCE) and any(fnmatchcase(base, pattern) for pattern in MODEL_FILES)


def _names(root: Path) -> Iterator[str]:
    """Paths of everything below `root` but folders, in a fixed order; a link to a folder is not followed."""
    for current, folders, files in os.walk(root):
        folders.sort()
        links = [name for name in folders if (Path(current) / name).is_symlink()]
        for name in sorted([*files, *links]):
            yield (Path(current) / name).relative_to(root).as_posix()


def _sha256(path: Path) -> str:
    found = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(_PART):
            found.update(part)
    return found.hexdigest()
