"""Rules on what a reader runs: driver, images, container, mounts, ports, names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise, takewhile

from flagrelease.card.lint.chips import marked_words
from flagrelease.card.lint.findings import Hit, Rule, Severity, listed
from flagrelease.card.lint.subject import Subject

_VERSION = re.compile(r"\d[\w.]*(?:-[\w.]+)*")
_CONTAINER_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")
"""What Docker allows (its `RestrictedNamePattern`)."""
_SHELLS = frozenset({"bash", "sh", "/bin/bash", "/bin/sh", "zsh", "sleep"})
_VLLM_PORT = 8000
_PROSE_PORT = re.compile(r"(?i)(?:\bport:?|端口) ?(\d{4,5})\b")
_FIREWALL = re.compile(r"(?i)firewall|防火墙")
_MODEL_VARIABLE = re.compile(r"(?:[A-Z0-9]{1,20}_)?MODEL(?:_PATH)?|QWEN\d*_PATH")


def _driver(subject: Subject) -> Iterator[Hit]:
    """A driver version that another vendor's driver has, and none of the card's own chip's."""
    chips = subject.knowledge.chips
    own = chips.get(subject.chip or "")
    if own is None:
        return
    for item, value in subject.facts.environment.items():
        if "driver" not in item.casefold():
            continue
        versions = _VERSION.findall(value)
        owners = [
            chip
            for chip in chips.values()
            if any(re.fullmatch(seen, version) for seen in chip.drivers for version in versions)
        ]
        if owners and own not in owners:
            vendors = listed([chip.vendor for chip in owners])
            cause = f"`{value}` is a driver of {vendors}, and the card is for {own.display}"
            yield Hit("environment table", cause, subject.line(value, item))


def _devices(subject: Subject) -> Iterator[Hit]:
    chips = subject.knowledge.chips
    own = chips.get(subject.chip or "")
    if own is None:
        return
    foreign = {word: chips[keys[0]].display for word, keys in marked_words(subject).items() if own.key not in keys}
    if foreign:
        said = [f"`{word}` ({display})" for word, display in foreign.items()]
        cause = f"the card is for {own.display}, but uses {listed(said)}"
        yield Hit("start command", cause, subject.line(*foreign))


def _run_command(subject: Subject) -> Iterator[Hit]:
    said = subject.facts
    faults = []
    name = said.container_name
    if name is not None and not _CONTAINER_NAME.fullmatch(name) and not re.search(r"[$<]", name):
        faults.append(f"`{name}` cannot be a container's name")
    faults += [f"`{image}` stands where the image belongs" for image in said.images_run if image in _SHELLS]
    if "-exec" in said.run_options:
        faults.append("`-exec` is read as `-e xec`")
    if faults:
        yield Hit("start command", listed(faults), subject.line("docker run"))


def _ports(subject: Subject) -> Iterator[Hit]:
    said = subject.facts
    port = said.serve_port or (_VLLM_PORT if said.server == "vllm" else None)
    if port is not None:
        outside = dict(_published_ports(subject))
        right = outside.get(port, port)
        for wrong in dict.fromkeys(each for each in said.client_ports if each not in {port, right}):
            cause = f"the server listens on {right}, but a request goes to {wrong}"
            yield Hit("request of the client", cause, subject.line(f":{wrong}/", f":{wrong}"))
    if not said.client_ports:
        return
    for index, line in subject.prose:
        found = _PROSE_PORT.search(line) if _FIREWALL.search(line) else None
        if found and int(found[1]) not in {*said.client_ports, port}:
            cause = f"the text opens port {found[1]}, but requests go to {said.client_ports[0]}"
            yield Hit("text", cause, index + 1)


def _published_ports(subject: Subject) -> Iterator[tuple[int, int]]:
    """Ports inside the container, with the host's."""
    for option, value in pairwise([*subject.facts.run_options, ""]):
        text = value if option in {"-p", "--publish"} else option.removeprefix("--publish=").removeprefix("-p")
        if found := re.fullmatch(r"(?:[\d.]+:)?(\d+):(\d+)(?:/tcp)?", text):
            yield int(found[2]), int(found[1])


def _served_name(subject: Subject) -> Iterator[Hit]:
    said = subject.facts
    if said.served_model is None:
        return
    served = {name.rstrip("/") for name in (_given_names(said.serve) or [said.served_model])}
    for name in dict.fromkeys(client.model for client in said.clients):
        if name.rstrip("/") not in served:
            offered = listed([f"`{each}`" for each in sorted(served)])
            cause = f"the request asks for `{name}`, but the server offers {offered}"
            yield Hit("request of the client", cause, subject.line(f'"{name}"', name))


def _given_names(commands: list[str]) -> list[str]:
    """The names that `--served-model-name` gives; it takes several."""
    words = [word.strip("'\"") for line in commands for word in line.replace("=", " ").split()]
    names: list[str] = []
    for index, word in enumerate(words):
        if word in {"--served-model-name", "--served_model_name"}:
            names += takewhile(lambda each: not each.startswith("-"), words[index + 1 :])
    return names


def _mounts(subject: Subject) -> Iterator[Hit]:
    """Weights that the container cannot see, or that are served from another place than they were put to."""
    said = subject.facts
    folder = said.download.directory if said.download else None
    if not said.mounts or folder is None or not folder.startswith("/"):
        return
    inside = _inside(folder, said.mounts)
    if inside is None:
        hosts = listed([f"`{host}`" for host, _ in said.mounts if host.startswith("/")])
        yield Hit(
            "start command", f"the weights go to `{folder}`, but the container sees {hosts}", subject.line(folder)
        )
        return
    for path in dict.fromkeys(_served_paths(subject)):
        if not _below(path, inside) and not _below(inside, path):
            cause = f"the weights lie in `{inside}` inside the container, but `{path}` is served"
            asked = path in {client.model for client in subject.facts.clients}
            place = "request of the client" if asked else "serve command"
            yield Hit(place, cause, subject.line(f'"{path}"', f" {path}", path))


def _inside(folder: str, mounts: list[tuple[str, str]]) -> str | None:
    """A host's folder as the container sees it; none where no mount holds it."""
    for host, container in sorted(mounts, key=lambda mount: -len(mount[0])):
        if host.startswith("/") and _below(folder, host):
            return container.rstrip("/") + "/" + folder.rstrip("/")[len(host.rstrip("/")) :].lstrip("/")
    return None


def _below(path: str, folder: str) -> bool:
    return f"{path.rstrip('/')}/".startswith(f"{folder.rstrip('/')}/")


def _served_paths(subject: Subject) -> Iterator[str]:
    said = subject.facts
    yield from (client.model for client in said.clients if client.model.startswith("/"))
    for line in said.serve:
        for before, word in pairwise(["", *line.split()]):
            name, _, value = word.partition("=")
            if _MODEL_VARIABLE.fullmatch(name) and value.startswith("/"):
                yield value
            elif word.startswith("/") and before in {"serve", "--model", "--model-path"} and not word.endswith(".yaml"):
                yield word


RULES = (
    Rule(
        "driver-of-another-vendor",
        Severity.ERROR,
        "the driver's version is one of another vendor's driver",
        "state the version that the chip's own tool prints on the host that was measured on",
        _driver,
    ),
    Rule(
        "devices-of-another-chip",
        Severity.ERROR,
        "container options, mounts or variables belong to another chip",
        "use the options of the card's chip: runtime/chips/<chip>.yaml has them",
        _devices,
    ),
    Rule(
        "broken-run-command",
        Severity.ERROR,
        "`docker run` cannot work as printed: no image, a name that Docker refuses, an option that is none",
        "run the command, and print what worked",
        _run_command,
    ),
    Rule(
        "port-mismatch",
        Severity.ERROR,
        "requests go to another port than the server listens on",
        "use one port in server, requests and text",
        _ports,
    ),
    Rule(
        "name-not-served",
        Severity.ERROR,
        "requests ask for a model name that the server does not offer",
        "ask for the name that `/v1/models` lists",
        _served_name,
    ),
    Rule(
        "weights-not-mounted",
        Severity.ERROR,
        "the container does not see the folder that the weights are downloaded to, or serves another one",
        "mount the download folder, and serve it under its path inside the container",
        _mounts,
    ),
)
