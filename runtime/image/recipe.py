"""What the matrix says of a cell's image, checked: base, pinned packages, port; and the image's names.

Nothing here talks to an engine or a package index. All words that later stand in a Dockerfile, a command or a reference
are checked here, so a hostile or mistaken one ends as a MatrixError that names it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress

from pydantic import Field

from flagrelease.errors import MatrixError, RegistryError
from flagrelease.matrix import ResolvedCell
from flagrelease.records import Record

_VERSION = r"[0-9][A-Za-z0-9]*(?:[.!_-]?[A-Za-z0-9]+)*(?:\+[A-Za-z0-9]+(?:[._-][A-Za-z0-9]+)*)?"
"""A version as PEP 440 writes it, roughly: pip has the last word."""
_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?"

# Component of the cell's versions → (package on an index, word in a tag). A plug-in names its package itself.
_COMPONENTS: Mapping[str, tuple[str | None, str]] = {
    "flagscale": ("flag-scale", "scale"),
    "flaggems": ("flag-gems", "gems"),
    "flagtree": ("flagtree", "tree"),
    "flagcx": ("flagcx", "cx"),
    "vllm": ("vllm", "vllm"),
    "plugin": (None, "plugin"),
}
_LONGEST_VERSIONS = 100
"""Letters of a tag (at most 128) for versions; the labels hold them whole."""

# As the distribution specification writes references; a host needs a dot, a port, or to be localhost.
_HOST = re.compile(r"(?:localhost|(?=[^/:]*\.|[^/]*:)[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?)(?::[0-9]{1,5})?")
_PATH = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*")
_REFERENCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]*(?:@sha256:[0-9a-f]{64})?")


class Pin(Record):
    """One Python package of an image."""

    component: str = Field(description="key of the cell's versions that names it, or `packages`")
    package: str
    version: str

    @property
    def requirement(self) -> str:
        """As pip wants it."""
        return f"{self.package}=={self.version}"


class Recipe(Record):
    """What a cell's image is to be made of, as the matrix says it. Cells with equal recipes share an image."""

    chip: str
    chip_display: str
    base: str = Field(description="reference of the base image, as written")
    pins: tuple[Pin, ...]
    port: int = Field(description="where the healthcheck asks, unless the container's environment names another")

    @property
    def versions(self) -> str:
        """The versions in one word, for tags: scale0.8.0-gems3.0."""
        named = [
            f"{_COMPONENTS[pin.component][1]}{pin.version}" for pin in self.pins if pin.component != "packages"
        ] or [f"{pin.package}{pin.version}" for pin in self.pins]
        return re.sub(r"[^A-Za-z0-9_.-]", "_", "-".join(named))[:_LONGEST_VERSIONS].rstrip("-._") or "base"


def recipe(cell: ResolvedCell, base_images: Mapping[str, str]) -> Recipe:
    """What the image of `cell` is made of; `base_images` replace those of the chip files.

    Raises MatrixError where the matrix cannot be understood or lacks something.
    """
    base = base_images.get(cell.chip.key) or cell.chip.base_image
    if base is None:
        raise MatrixError(
            f"{cell.id}: the chip {cell.chip.key} has no base image",
            remedy=f"add `base_image:` to runtime/chips/{cell.chip.key}.yaml, or name one in FLAGRELEASE_BASE_IMAGES, "
            f'for example {{"{cell.chip.key}": "registry.example.org/base@sha256:…"}}',
        )
    if not _REFERENCE.fullmatch(base):
        raise MatrixError(
            f"{cell.id}: the base image {base!r} is not a reference to an image",
            remedy="write registry/project/name:tag or, better, registry/project/name@sha256:…",
        )
    pins = tuple(_pins(cell))
    twice = {
        pin.package for pin in pins if [canonical(other.package) for other in pins].count(canonical(pin.package)) > 1
    }
    if twice:
        raise MatrixError(
            f"{cell.id}: versions: pinned twice: {', '.join(sorted(twice))}", remedy="keep one of the two"
        )
    return Recipe(chip=cell.chip.key, chip_display=cell.chip.display, base=base, pins=pins, port=cell.cell.port)


def sharing(cell: ResolvedCell, cells: Iterable[ResolvedCell], base_images: Mapping[str, str]) -> list[str]:
    """Ids of those of `cells` whose image is that of `cell`."""
    wanted = recipe(cell, base_images)
    found = []
    for other in cells:
        # A mistake in another cell is that cell's.
        with suppress(MatrixError):
            if recipe(other, base_images) == wanted:
                found.append(other.id)
    return found


def _pins(cell: ResolvedCell) -> Iterator[Pin]:
    versions = cell.cell.versions
    for component, (package, _) in _COMPONENTS.items():
        text: str | None = getattr(versions, component)
        if text is None:
            continue
        # As cards print it (`Version: 0.8.0`), plain, or with the package's name (`vllm-ascend 0.23.0`).
        match = re.fullmatch(rf"(?:Version:\s*)?(?:({_NAME})(?:\s+|==))?v?({_VERSION})", text.strip())
        if match is None or not (match[1] or package):
            raise MatrixError(
                f"{cell.id}: versions.{component}: {text!r} names no version",
                remedy=f'write it as "{package} 1.2.3"'
                if package
                else 'write it with its package: "vllm-ascend 0.23.0"',
            )
        yield Pin(component=component, package=match[1] or package, version=match[2])
    for text in versions.packages:
        match = re.fullmatch(rf"({_NAME})==({_VERSION})", text)
        if match is None:
            raise MatrixError(
                f"{cell.id}: versions.packages: {text!r} is not a pinned package", remedy="write name==version"
            )
        yield Pin(component="packages", package=match[1], version=match[2])


def canonical(package: str) -> str:
    """The one spelling of a package's name (PEP 503)."""
    return re.sub(r"[-_.]+", "-", package).lower()


def repository(cell: ResolvedCell, registry: str | None) -> str:
    """Name of the cell's image without a tag: `<registry>/flagrelease_metax_qwen3_8b`.

    The last part is that of the image which the cell's card prints, else it is made of chip and model. `registry` is
    host and project; without one the name is good for this host only. Raises MatrixError, RegistryError.
    """
    name = cell.image_name
    if "/" in name or not _PATH.fullmatch(name):
        raise MatrixError(
            f"{cell.id}: {name!r} does not name an image",
            remedy="names of images have small letters, digits, and single `_`, `.` or `-` between them",
        )
    return f"{registry_prefix(registry)}/{name}" if registry else name


def shared_name(chip: str, key: str, registry: str) -> str:
    """Name and tag by which hosts of a chip find what one of them has built, whichever cell it was built for."""
    return f"{registry_prefix(registry)}/flagrelease_{chip}:{key[:16]}"


def registry_prefix(registry: str) -> str:
    """`registry` as it stands in names of images; raises RegistryError where it cannot."""
    host, _, path = registry.rstrip("/").partition("/")
    if not _HOST.fullmatch(host) or (path and not _PATH.fullmatch(path)):
        raise RegistryError(
            f"FLAGRELEASE_REGISTRY: {registry!r} is not a registry",
            remedy="write host and project without a scheme: harbor.example.org/team, or localhost:5000/team",
        )
    return f"{host}/{path}" if path else host


def registry_host(reference: str) -> str:
    """The registry that an image's name means."""
    host, slash, _ = reference.partition("/")
    return host if slash and _HOST.fullmatch(host) else "docker.io"


def tag(recipe: Recipe, created: str, key: str) -> str:
    """The image's tag: versions, day of the build (`created` in ISO 8601), first letters of the content key."""
    return f"{recipe.versions}-{created[:10].replace('-', '')}-{key[:8]}"
