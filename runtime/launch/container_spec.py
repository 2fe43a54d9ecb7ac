"""What a container is started with, in types: the one description behind the card's `docker run` and the SDK's call.

Every value is checked, however it came here: one that breaks a line, or could be taken for another option or another
part of its own option, is refused. The words of options are those of `docker run`
(https://docs.docker.com/reference/cli/docker/container/run/).
"""

from __future__ import annotations

import csv
import re
from typing import Annotated, Self

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints, model_validator

from flagrelease.entry import Entry

_UNITS = {"": 1, "b": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40, "p": 2**50}
_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([kmgtp]?)(?:i?b)?", re.IGNORECASE)
_IMAGE = re.compile(
    r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?(?::\d+)?/)?"  # registry
    r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*)*"  # repository
    r"(?::\w[\w.-]{0,127})?(?:@sha256:[0-9a-f]{64})?",
    re.ASCII,
)


def _printable(text: str) -> str:
    if not text.isprintable():
        msg = f"{text!r} holds a character that does not print"
        raise ValueError(msg)
    return text


def _image(text: str) -> str:
    if not _IMAGE.fullmatch(text) and not re.fullmatch(r"sha256:[0-9a-f]{64}", text):
        msg = f"`{text}` is not the name of an image (registry/project/name[:tag or @sha256:…])"
        raise ValueError(msg)
    return text


def _unquoted(text: object) -> object:
    """Sizes often stand in quotes that a shell would have taken away."""
    if isinstance(text, str) and len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        return text[1:-1]
    return text


def _size(text: str) -> str:
    if not _SIZE.fullmatch(text):
        msg = f"`{text}` is not a size: a number and one of b, k, m, g, t, such as 100gb"
        raise ValueError(msg)
    return text


def size_bytes(size: str) -> int:
    """Bytes of a size as `docker run` reads it: units are powers of 1024."""
    match = _SIZE.fullmatch(size)
    if match is None:
        raise ValueError(size)
    return int(float(match[1]) * _UNITS[match[2].lower()])


Text = Annotated[str, AfterValidator(_printable)]
Word = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.:/@-]*$")]
Path = Annotated[str, StringConstraints(pattern=r"^/[^:\x00-\x1f\x7f]*$"), AfterValidator(_printable)]
Size = Annotated[str, BeforeValidator(_unquoted), AfterValidator(_size)]
ImageName = Annotated[str, AfterValidator(_image)]
ContainerName = Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9][a-zA-Z0-9_.-]+$", max_length=200)]
Variable = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_.-]*$")]
LabelKey = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_./-]*$")]
Security = Annotated[str, StringConstraints(pattern=r"^[a-z-]+(=[A-Za-z0-9_.:/-]+)?$")]


class Device(Entry):
    """A device file of the host (`--device`)."""

    host: Path
    container: Path
    access: Annotated[str, StringConstraints(pattern=r"^[rwm]{1,3}$")] = "rwm"

    @classmethod
    def read(cls, text: str) -> Self:
        """From `host[:container[:access]]`."""
        parts = text.split(":")
        if len(parts) == 2 and not parts[1].startswith("/"):  # noqa: PLR2004 - host:access
            parts.insert(1, parts[0])
        if len(parts) > 3:  # noqa: PLR2004
            msg = f"`{text}` is not host[:container[:rwm]]"
            raise ValueError(msg)
        return cls(host=parts[0], container=parts[1] if len(parts) > 1 else parts[0], access=(parts[2:] or ["rwm"])[0])

    def __str__(self) -> str:
        """As `--device` takes it."""
        if self.access != "rwm":
            return f"{self.host}:{self.container}:{self.access}"
        return self.host if self.host == self.container else f"{self.host}:{self.container}"


class Mount(Entry):
    """A folder or file of the host that the container sees (`--volume`)."""

    source: Path
    target: Path
    modes: tuple[Annotated[str, StringConstraints(pattern=r"^[a-zA-Z]+$")], ...] = ()

    @classmethod
    def read(cls, text: str) -> Self:
        """From `source:target[:modes]`; sources are paths of the host."""
        source, *rest = text.split(":")
        if len(rest) not in {1, 2}:
            msg = f"`{text}` is not source:target[:modes]"
            raise ValueError(msg)
        return cls(source=source, target=rest[0], modes=tuple(rest[1].split(",")) if len(rest) > 1 else ())

    def __str__(self) -> str:
        """As `--volume` takes it."""
        return f"{self.source}:{self.target}" + (f":{','.join(self.modes)}" if self.modes else "")


class Gpus(Entry):
    """Devices asked of the engine's GPU runtime (`--gpus`): so many, or these."""

    count: int | None = Field(default=None, description="-1: all; none where `ids` names them")
    ids: tuple[Word, ...] = ()

    @classmethod
    def read(cls, text: str) -> Self:
        """From `all`, a number, `device=0`, or `"device=0,1"`: docker reads a list of fields, hence the quotes."""
        fields = next(csv.reader([text]), [])
        key, _, value = fields[0].rpartition("=") if len(fields) == 1 else ("", "", "")
        if key in {"", "count"} and (value == "all" or (value.isdecimal() and int(value) > 0)):
            return cls(count=-1 if value == "all" else int(value))
        if key == "device" and value:
            return cls(ids=tuple(value.split(",")))
        msg = f'`{text}`: write all, a number, device=0, or several as "device=0,1" with the quotes'
        raise ValueError(msg)

    def __str__(self) -> str:
        """As `--gpus` takes it."""
        if self.ids:
            return f"device={self.ids[0]}" if len(self.ids) == 1 else f'"device={",".join(self.ids)}"'
        return "all" if self.count == -1 else str(self.count)


class Ulimit(Entry):
    """A resource limit (`--ulimit`); -1 is unlimited."""

    name: Annotated[str, StringConstraints(pattern=r"^[a-z]+$")]
    soft: int = Field(ge=-1)
    hard: int | None = Field(default=None, ge=-1, description="none: as the soft one")

    @classmethod
    def read(cls, text: str) -> Self:
        """From `name=soft[:hard]`."""
        match = re.fullmatch(r"(\w+)=(-?\d+)(?::(-?\d+))?", text, re.ASCII)
        if match is None:
            msg = f"`{text}` is not name=soft[:hard] with whole numbers"
            raise ValueError(msg)
        return cls(name=match[1], soft=int(match[2]), hard=int(match[3]) if match[3] else None)

    @model_validator(mode="after")
    def _soft_within_hard(self) -> Self:
        if self.hard not in {None, -1} and not 0 <= self.soft <= self.hard:
            msg = f"{self.name}: the soft limit {self.soft} is above the hard limit {self.hard}"
            raise ValueError(msg)
        return self

    def __str__(self) -> str:
        """As `--ulimit` takes it."""
        return f"{self.name}={self.soft}" + ("" if self.hard is None else f":{self.hard}")


class Port(Entry):
    """A port of the container on the host (`--publish`)."""

    container: int = Field(ge=1, le=65535)
    host: int | None = Field(default=None, ge=1, le=65535, description="none: one that is free")
    address: Annotated[str, StringConstraints(pattern=r"^[0-9.]*$")] = ""
    protocol: Annotated[str, StringConstraints(pattern=r"^(tcp|udp)$")] = "tcp"

    @classmethod
    def read(cls, text: str) -> Self:
        """From `[[address:][host]:]container[/protocol]`; addresses are those of IPv4."""
        match = re.fullmatch(r"(?:(?:([\d.]+):)?(\d*):)?(\d+)(?:/(\w+))?", text, re.ASCII)
        if match is None:
            msg = f"`{text}` is not [[address:]host:]container[/protocol]"
            raise ValueError(msg)
        address, host, container, protocol = match.groups()
        return cls(
            container=int(container),
            host=int(host) if host else None,
            address=address or "",
            protocol=protocol or "tcp",
        )

    def __str__(self) -> str:
        """As `--publish` takes it."""
        host = f"{self.address}:{self.host or ''}:" if self.address else f"{self.host}:" if self.host else ""
        return f"{host}{self.container}" + ("" if self.protocol == "tcp" else f"/{self.protocol}")


class ContainerSpec(Entry):
    """A container: its image, its command, and everything that `docker run` is told about it."""

    image: ImageName
    command: tuple[str, ...] = Field(default=(), description="argument list; empty: the image's own")
    name: ContainerName | None = None
    detach: bool = False
    interactive: bool = False
    tty: bool = False
    remove: bool = False
    init: bool = False
    privileged: bool = False
    user: Word | None = None
    workdir: Path | None = None
    hostname: Word | None = None
    network: Word | None = None
    ipc: Word | None = None
    uts: Word | None = None
    pid: Word | None = None
    runtime: Word | None = None
    shm_size: Size | None = Field(default=None, description="as written, for example 100gb")
    memory: Size | None = Field(default=None, description="as written; what is beyond ends the container")
    gpus: Gpus | None = None
    devices: tuple[Device, ...] = ()
    groups: tuple[Word, ...] = ()
    cap_add: tuple[Word, ...] = ()
    cap_drop: tuple[Word, ...] = ()
    security: tuple[Security, ...] = ()
    ulimits: tuple[Ulimit, ...] = ()
    mounts: tuple[Mount, ...] = ()
    tmpfs: dict[Path, Text] = Field(default_factory=dict, description="mount point: options, which may be empty")
    ports: tuple[Port, ...] = ()
    environment: dict[Variable, Text] = Field(default_factory=dict)
    labels: dict[LabelKey, Text] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        for option in self.security:
            if option.startswith("seccomp=") and option != "seccomp=unconfined":
                # The command line sends the file's content, the SDK would send its name.
                msg = f"--security-opt {option}: only seccomp=unconfined is supported"
                raise ValueError(msg)
        if self.uts == "host" and self.hostname:
            msg = "--hostname cannot be set with --uts=host: the host's name is the container's"
            raise ValueError(msg)
        if self.network == "host" and self.ports:
            msg = "--publish cannot be used with --network=host: every port is the host's"
            raise ValueError(msg)
        return self
