"""Builds the image of a cell, or finds the one that the same inputs made before."""

from __future__ import annotations

import fcntl
import hashlib
import io
import re
import subprocess
import tarfile
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, NamedTuple

import docker
from docker.errors import APIError
from pydantic import Field

from flagrelease import __version__
from flagrelease.errors import FlagReleaseError, ImageError, RegistryError
from flagrelease.matrix import ResolvedCell
from flagrelease.records import Record
from flagrelease.secrets import child_environment
from flagrelease.settings import CHECKOUT, Settings
from runtime.docker_engine import engine_error, engine_errors, explanation, gone
from runtime.image.base import BaseImage, find_base
from runtime.image.dockerfile import KEY_LABEL, ImageInputs, image_files, render
from runtime.image.recipe import Recipe, recipe, repository, shared_name, tag
from runtime.image.registry import pull
from runtime.image.wheels import Wheels, fetch
from runtime.launch.interface import Log

CREATED_LABEL = "org.opencontainers.image.created"
CELLS_LABEL = "io.flagos.flagrelease.cells"
LAST_LINES = 15
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_STEP = re.compile(r"Step \d+/\d+ : .*")
_NOISE = re.compile(r"\s*|\s*---> .*|Removing intermediate container .*")


class BuiltImage(Record):
    """A cell's image on this engine."""

    id: str = Field(description="the engine's own id: the hash of the image's configuration")
    key: str = Field(description="content key: hash of all inputs")
    repository: str = Field(description="name without tag")
    tag: str
    created: str = Field(description="when the image was built, UTC, ISO 8601")
    reused: bool = Field(description="whether an image of the same inputs was there")
    size: int = Field(description="bytes, base included")
    base: str = Field(description="the base image by digest, or the engine's id of one that no registry knows")
    dockerfile: str = Field(description="what it was built from, without time and origin: the same for the same inputs")

    @property
    def name(self) -> str:
        """Name and tag."""
        return f"{self.repository}:{self.tag}"


class _Prepared(NamedTuple):
    """Everything that an image is made of, on this host."""

    recipe: Recipe
    base: BaseImage
    wheels: Wheels
    inputs: ImageInputs


def build_image(
    client: docker.DockerClient, cell: ResolvedCell, host: Settings, log: Log, cells: Sequence[str] = ()
) -> BuiltImage:
    """The image of `cell`, built unless one of the same inputs is here. `cells`: ids of those that share it (a label).

    Raises MatrixError where the matrix cannot be understood, ImageError where something is missing or a step fails.
    """
    wanted = recipe(cell, host.base_images)
    name = repository(cell, host.registry)
    base = find_base(client, wanted.base, host, log)
    wheels = fetch(client, wanted.pins, base, host, log)
    inputs = ImageInputs(
        platform=base.platform,
        base=base.content,
        instructions=render(wanted, wheels.sha256),
        wheels=wheels.sha256,
        files={name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in image_files(wanted).items()},
    )
    with _one_builder(host.work_path / "images" / f"{inputs.key}.lock", log):
        found = find(client, inputs.key) or _of_another_host(client, wanted, inputs.key, host, log)
        reused = found is not None
        if found is None:
            log(f"build: {name}, content key {inputs.key[:12]}")
            found = _build(client, _Prepared(wanted, base, wheels, inputs), cells or [cell.id], log)
        else:
            log(f"build: nothing to do, the image {found['Id'][7:19]} was made of the same inputs")
        created = found["Config"]["Labels"][CREATED_LABEL]
        image_tag = tag(wanted, created, inputs.key)
        with engine_errors(f"naming {name}"):
            client.api.tag(found["Id"], name, image_tag, force=True)
            # Without the day, for whoever builds it again from the card.
            client.api.tag(found["Id"], name, inputs.key[:16], force=True)
    return BuiltImage(
        id=found["Id"],
        key=inputs.key,
        repository=name,
        tag=image_tag,
        created=created,
        reused=reused,
        size=found["Size"],
        base=base.reference,
        dockerfile=inputs.dockerfile({}),
    )


def find(client: docker.DockerClient, key: str) -> dict[str, Any] | None:
    """What the engine knows of an image with this content key; none: it is to be built."""
    with engine_errors("looking for an image of the same inputs"):
        for image in client.images.list(filters={"label": f"{KEY_LABEL}={key}"}):
            # A container that was changed and committed inherits the label, and so does what is built on top; but its
            # last step is another one.
            last: str = image.history()[0]["CreatedBy"]
            if re.search(r"(^|\s)LABEL\s", last):
                return dict(image.attrs)
    return None


def _of_another_host(
    client: docker.DockerClient, wanted: Recipe, key: str, host: Settings, log: Log
) -> dict[str, Any] | None:
    """The image of this content key, pulled from where another host pushed it; none: it is to be built here."""
    if host.registry is None:
        return None
    try:
        pull(client, shared_name(wanted.chip, key, host.registry), host, log)
    except RegistryError as error:
        log(f"build: no other host's image of the same inputs: {error.message}")
        return None
    return find(client, key)


def _build(client: docker.DockerClient, prepared: _Prepared, cells: Sequence[str], log: Log) -> dict[str, Any]:
    labels = {
        CELLS_LABEL: " ".join(cells),
        CREATED_LABEL: datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "org.opencontainers.image.revision": _revision(),
        "org.opencontainers.image.base.name": prepared.recipe.base,
    }
    _, at, digest = prepared.base.reference.partition("@")
    if at:
        labels["org.opencontainers.image.base.digest"] = digest
    with tempfile.TemporaryFile() as context, engine_errors("building an image"):
        _pack(context, prepared, prepared.inputs.dockerfile(labels))
        context.seek(0)
        try:
            stream = client.api.build(
                fileobj=context,
                custom_context=True,
                buildargs={"BASE": prepared.base.reference},
                network_mode="none",
                rm=True,
                forcerm=True,
                decode=True,
            )
            identifier = follow(stream, log)
        except APIError as error:
            raise _failure("the Dockerfile", explanation(error), ()) from error
        return dict(client.images.get(identifier).attrs)


def follow(stream: Iterable[Mapping[str, Any]], log: Log) -> str:
    """Id of the image that a build's stream ends with; its lines are logged as they come.

    Raises ImageError with the step that failed and its last lines, EngineError where the stream just ends.
    """
    step, identifier = "the first step", None
    lines: deque[str] = deque(maxlen=LAST_LINES)
    for part in stream:
        if "error" in part:
            raise _failure(step, str((part.get("errorDetail") or {}).get("message") or part["error"]), lines)
        if "ID" in (part.get("aux") or {}):
            identifier = str(part["aux"]["ID"])
        for line in _COLOUR.sub("", part.get("stream") or "").splitlines():
            if _STEP.fullmatch(line):
                step = line
                lines.clear()
            elif not _NOISE.fullmatch(line):
                lines.append(line)
            if not _NOISE.fullmatch(line):
                log(f"build: {line}")
    if identifier is None:
        raise gone(f"building an image, in {step}", "the build ended without a result")
    return identifier


def _failure(step: str, reason: str, lines: Iterable[str]) -> FlagReleaseError:
    if "no space left on device" in reason or any("no space left on device" in line.lower() for line in lines):
        return engine_error(f"building an image, in {step}", f"no space left on device: {reason}")
    shown = "".join(f"\n    {line}" for line in lines)
    return ImageError(
        f"the image cannot be built: {step}: {reason}" + (f"; its last lines:{shown}" if shown else ""),
        remedy="mend what the step complains of (pins in matrix.yaml, base image in the chip file), "
        "then run the same command again: finished steps are kept",
    )


def _pack(context: IO[bytes], prepared: _Prepared, dockerfile: str) -> None:
    """Write the build's context: Dockerfile, wheels with their hashes, files. Times and owners are fixed."""
    wheels = prepared.wheels
    requirements = (
        f"{pin.requirement} --hash=sha256:{wheels.sha256[wheels.file_of[pin.package]]}\n"
        for pin in prepared.recipe.pins
    )
    texts = {"Dockerfile": dockerfile, "wheels/requirements.txt": "".join(requirements)}
    paths = {f"wheels/{name}": wheels.folder / name for name in wheels.sha256}
    paths |= {f"files/{name}": path for name, path in image_files(prepared.recipe).items()}
    with tarfile.open(fileobj=context, mode="w") as archive:

        def add(name: str, size: int, data: IO[bytes]) -> None:
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = size, 0o644
            archive.addfile(entry, data)

        for name, text in texts.items():
            add(name, len(text.encode()), io.BytesIO(text.encode()))
        for name, path in paths.items():
            with path.open("rb") as file:
                add(name, path.stat().st_size, file)


def _revision() -> str:
    """The commit that this code is of, `-dirty` where files were changed; the version where it is no checkout."""
    if (CHECKOUT / ".git").exists():
        command = ["git", "-C", str(CHECKOUT), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        answer = subprocess.run(command, capture_output=True, text=True, check=False, env=child_environment())
        if answer.returncode == 0:
            return answer.stdout.strip()
    return __version__


@contextmanager
def _one_builder(path: Path, log: Log) -> Iterator[None]:
    """Within the block no other process of this host builds the same image; it waits for one that does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log("build: waiting for another process that builds the same image")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
