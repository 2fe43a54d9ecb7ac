"""Rules on container images: the one that was measured, that everybody can pull, with the versions that are stated."""

from __future__ import annotations

import re
from collections.abc import Iterator

from flagrelease.card.lint.findings import Hit, Rule, Severity, listed
from flagrelease.card.lint.model_names import could_mean
from flagrelease.card.lint.subject import Subject, shortened

_PRIVATE_WORDS = frozenset({"inner", "internal", "private", "intranet"})
_PRIVATE_HOST = re.compile(
    r"localhost|127\..+|10\.\d+\.\d+\.\d+|192\.168\.\d+\.\d+|172\.(?:1[6-9]|2\d|3[01])\.\d+\.\d+|.+\.(?:local|lan|internal)"
)

# In image names: `gems_4.1-scale_0.8.0-…-driver_3.3.2`; in the environment table: the row's name.
_IMAGE_VERSIONS = {
    "gems": re.compile(r"(?i)flaggems"),
    "scale": re.compile(r"(?i)flagscale"),
    "tree": re.compile(r"(?i)flagtree"),
    "cx": re.compile(r"(?i)flagcx"),
    "python": re.compile(r"(?i)python(?: version)?"),
    "driver": re.compile(r"(?i).*driver.*"),
}


def _run_image(subject: Subject) -> Iterator[Hit]:
    pulled = subject.facts.images_pulled
    for image in dict.fromkeys(subject.facts.images_run):
        if pulled and "$" not in image and _tagged(image) not in {_tagged(each) for each in pulled}:
            cause = f"`docker run` starts `{image}`, but the card pulls {listed([f'`{each}`' for each in pulled])}"
            yield Hit("start command", cause, subject.line(image if "/" in image else "docker run"))


def _tagged(image: str) -> str:
    last = image.rpartition("/")[2]
    return image if ":" in last or "@" in last else f"{image}:latest"


def _private_image(subject: Subject) -> Iterator[Hit]:
    for image in subject.images:
        host, slash, rest = image.partition("/")
        if not slash:
            continue
        projects = rest.split("/")[:-1]
        if _PRIVATE_HOST.fullmatch(host.partition(":")[0]):
            yield Hit("image", f"`{host}` is a host that nobody outside reaches", subject.line(image))
        for project in projects:
            if _PRIVATE_WORDS & set(re.split(r"[-_.]", project.casefold())):
                yield Hit("image", f"the project `{project}` of `{host}` is not public", subject.line(image))


def _no_registry(subject: Subject) -> Iterator[Hit]:
    for image in dict.fromkeys(subject.facts.images_pulled):
        if "/" not in image and "$" not in image:
            cause = f"`{image}` names no registry, so Docker Hub's own images are searched for it"
            yield Hit("image", cause, subject.line(image))


def _image_versions(subject: Subject) -> Iterator[Hit]:
    said: dict[str, str] = {}
    for image in subject.images:
        for key, version in re.findall(r"[-_]([a-z]+)_(\d[\w.]*)", image.partition("/")[2]):
            said.setdefault(key, version)
    differ = []
    line = None
    for key, row in _IMAGE_VERSIONS.items():
        for item, value in subject.facts.environment.items():
            stated = re.search(r"\d+(?:\.\w+)+", value)
            if key in said and row.fullmatch(item) and stated and not _same_version(stated[0], said[key]):
                differ.append(f"{item} {stated[0]} here and {said[key]} there")
                line = line or subject.line(value)
    if differ:
        yield Hit("environment table", f"table and image name differ: {listed(differ)}", line)


def _same_version(one: str, other: str) -> bool:
    """Whether two versions agree as far as both go: 3.0 and 3.0.0 do."""
    pairs = list(zip(re.findall(r"\d+|[a-z]+", one), re.findall(r"\d+|[a-z]+", other), strict=False))
    return all(a == b for a, b in pairs)


def _image_model(subject: Subject) -> Iterator[Hit]:
    model = subject.model
    if model is None:
        return
    for image in subject.images:
        named = _model_of_image(subject, image)
        if named and not could_mean(named, model):
            yield Hit(
                "image", f"`{shortened(image)}` names `{named}`, and the card is about `{model}`", subject.line(image)
            )


def _model_of_image(subject: Subject, image: str) -> str | None:
    """The model in an image's name, in any of the three ways that FlagRelease has named images."""
    path = image.partition("@")[0].casefold()
    if found := re.search(r"-model_(.+?)-(?:tree|gems)_", path):
        return found[1].replace("_", "-")
    if found := re.search(r"flagrelease[_-]([a-z]+)[_-]([\w.-]+?)(?::[\w.-]+)?$", path):
        return found[2].replace("_", "-") if subject.knowledge.chip_of(found[1]) else None
    if found := re.search(r"/(?:flagrelease-)?([\w.-]+?)-([a-z]+)\d*-(?:gems|tree)", path):
        return found[1] if subject.knowledge.chip_of(found[2]) else None
    return None


RULES = (
    Rule(
        "run-image-not-pulled",
        Severity.ERROR,
        "`docker run` starts another image than the one that is pulled",
        "find out which image was measured, and name it in both commands",
        _run_image,
    ),
    Rule(
        "private-image",
        Severity.ERROR,
        "the image lies in a private project or on a private host",
        "push it to a public project, and name that",
        _private_image,
    ),
    Rule(
        "image-without-registry",
        Severity.ERROR,
        "the image is pulled without the registry that has it",
        "write registry/project/name:tag",
        _no_registry,
    ),
    Rule(
        "image-versions-differ",
        Severity.WARNING,
        "environment table and image name state different versions",
        "read the versions inside the container that was measured",
        _image_versions,
    ),
    Rule(
        "image-of-another-model",
        Severity.WARNING,
        "the image's name says another model",
        "name the image that was built for this model, or say that it is shared",
        _image_model,
    ),
)
