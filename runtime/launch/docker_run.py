"""`docker run`'s options and a container's specification, each made from the other; and what the SDK is given.

The card prints `options(spec)`, the launcher calls the SDK with `sdk_arguments(spec)`: the same container.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from pydantic import ValidationError

from flagrelease.errors import MatrixError
from runtime.launch.container_spec import ContainerSpec, Device, Gpus, Mount, Port, Ulimit, size_bytes

_ALIASES = {
    "-d": "--detach",
    "-e": "--env",
    "-h": "--hostname",
    "-i": "--interactive",
    "-l": "--label",
    "-m": "--memory",
    "-p": "--publish",
    "-t": "--tty",
    "-u": "--user",
    "-v": "--volume",
    "-w": "--workdir",
    "--net": "--network",
}
_FLAGS = {
    "--detach": "detach",
    "--interactive": "interactive",
    "--tty": "tty",
    "--rm": "remove",
    "--init": "init",
    "--privileged": "privileged",
}
_SINGLE: dict[str, tuple[str, Callable[[str], Any]]] = {
    "--name": ("name", str),
    "--user": ("user", str),
    "--workdir": ("workdir", str),
    "--hostname": ("hostname", str),
    "--network": ("network", str),
    "--ipc": ("ipc", str),
    "--uts": ("uts", str),
    "--pid": ("pid", str),
    "--runtime": ("runtime", str),
    "--shm-size": ("shm_size", str),
    "--memory": ("memory", str),
    "--gpus": ("gpus", Gpus.read),
}
_REPEATED: dict[str, tuple[str, Callable[[str], Any]]] = {
    "--device": ("devices", Device.read),
    "--group-add": ("groups", str),
    "--cap-add": ("cap_add", str),
    "--cap-drop": ("cap_drop", str),
    # The form with a colon is docker's old one.
    "--security-opt": ("security", lambda text: text if "=" in text else text.replace(":", "=", 1)),
    "--ulimit": ("ulimits", Ulimit.read),
    "--volume": ("mounts", Mount.read),
    "--publish": ("ports", Port.read),
}
_PAIRS = {"--tmpfs": ("tmpfs", ":"), "--env": ("environment", "="), "--label": ("labels", "=")}
_OPTION_OF = {
    **{field: option for option, field in _FLAGS.items()},
    **{field: option for option, (field, _) in (*_SINGLE.items(), *_REPEATED.items(), *_PAIRS.items())},
}
"""Option of each field of a specification."""
_KNOWN = (*_FLAGS, *_SINGLE, *_REPEATED, *_PAIRS)
# As Go's strconv.ParseBool, with which docker reads them.
_TRUE = {"1", "t", "T", "true", "TRUE", "True"}
_FALSE = {"0", "f", "F", "false", "FALSE", "False"}
_NOTHING: tuple[object, ...] = (None, [], {})


def parse(options: Sequence[str], *, image: str, command: Sequence[str] = (), name: str | None = None) -> ContainerSpec:
    """The container that `docker run OPTIONS IMAGE COMMAND` starts; `name` where the options give none.

    Options are tokens as a shell hands them over: `--opt=value`, or `--opt` and `value`. Raises MatrixError, which
    names the option, where it is unknown or its value is not one.
    """
    fields: dict[str, Any] = {"image": image, "command": tuple(command)}
    for option, text in _split(options):
        try:
            _put(fields, option, text)
        except ValueError as error:
            raise _refused(option, _reason(error)) from None
    if name is not None and fields.setdefault("name", name) != name:
        raise _refused("--name", f"names another container than `{name}`")
    try:
        return ContainerSpec(**fields)
    except ValidationError as error:
        where = error.errors()[0]["loc"]
        raise _refused(_OPTION_OF.get(str(where[0]), str(where[0])) if where else "", _reason(error)) from None


def _put(fields: dict[str, Any], option: str, text: str) -> None:
    if option in _FLAGS:
        fields[_FLAGS[option]] = text in _TRUE
    elif option in _SINGLE:
        field, read = _SINGLE[option]
        if fields.setdefault(field, value := read(text)) != value:
            msg = f"is there twice, as `{fields[field]}` and as `{text}`"
            raise ValueError(msg)
    elif option in _REPEATED:
        field, read = _REPEATED[option]
        fields[field] = (*fields.get(field, ()), read(text))
    else:
        field, separator = _PAIRS[option]
        key, found, value = text.partition(separator)
        if option == "--env" and not found:
            msg = f"`{text}` takes its value from whoever runs it; write {text}=VALUE"
            raise ValueError(msg)
        fields.setdefault(field, {})[key] = value


def options(spec: ContainerSpec) -> list[str]:
    """`docker run`'s options of a container, in one order; `parse` of them is the specification again."""
    found = ["-d"] if spec.detach else []
    if letters := "i" * spec.interactive + "t" * spec.tty:
        found.append(f"-{letters}")
    found += [option for option in ("--rm", "--init", "--privileged") if getattr(spec, _FLAGS[option])]
    if spec.name:
        found += ["--name", spec.name]
    for option, (field, _) in _SINGLE.items():
        if option != "--name" and (value := getattr(spec, field)) is not None:
            found.append(f"{option}={value}")
    for option, (field, _) in _REPEATED.items():
        for value in getattr(spec, field):
            found += ["-v", str(value)] if option == "--volume" else [f"{option}={value}"]
    found += [f"--tmpfs={path}:{modes}" if modes else f"--tmpfs={path}" for path, modes in spec.tmpfs.items()]
    for name, value in spec.environment.items():
        found += ["-e", f"{name}={value}"]
    found += [f"--label={key}={value}" for key, value in spec.labels.items()]
    return found


def tokens(spec: ContainerSpec) -> list[str]:
    """What stands after `docker run`: options, image, command."""
    return [*options(spec), spec.image, *spec.command]


def sdk_arguments(spec: ContainerSpec) -> dict[str, Any]:
    """Keyword arguments of the SDK's `client.api.create_container`; `host_config` in the words of the Engine's API.

    Not of `client.containers.create`: that one writes every mount into the container's own configuration too, which
    `docker run` does not.
    """
    host: dict[str, Any] = {
        "AutoRemove": spec.remove,
        "Privileged": spec.privileged,
        "NetworkMode": spec.network or "default",
        "IpcMode": spec.ipc,
        "UTSMode": spec.uts,
        "PidMode": spec.pid,
        "Runtime": spec.runtime,
        "Init": spec.init or None,
        "ShmSize": size_bytes(spec.shm_size) if spec.shm_size else None,
        "Memory": size_bytes(spec.memory) if spec.memory else None,
        "Devices": [
            {"PathOnHost": each.host, "PathInContainer": each.container, "CgroupPermissions": each.access}
            for each in spec.devices
        ],
        "DeviceRequests": [_device_request(spec.gpus)] if spec.gpus else None,
        "GroupAdd": list(spec.groups),
        "RestartPolicy": {"Name": "no"},
        "CapAdd": _capabilities(spec.cap_add),
        "CapDrop": _capabilities(spec.cap_drop),
        "SecurityOpt": list(spec.security),
        # In the order of docker's command line.
        "Ulimits": [
            {"Name": each.name, "Soft": each.soft, "Hard": each.soft if each.hard is None else each.hard}
            for each in sorted(spec.ulimits, key=lambda each: each.name)
        ],
        "Binds": [str(mount) for mount in spec.mounts],
        "Tmpfs": dict(spec.tmpfs),
        "PortBindings": {
            f"{port.container}/{port.protocol}": [{"HostIp": port.address, "HostPort": str(port.host or "")}]
            for port in spec.ports
        },
    }
    return {
        "image": spec.image,
        "command": list(spec.command) or None,
        "name": spec.name,
        "hostname": spec.hostname,
        "user": spec.user,
        "working_dir": spec.workdir,
        "environment": [f"{name}={value}" for name, value in spec.environment.items()],
        "labels": dict(spec.labels),
        "detach": spec.detach,
        "stdin_open": spec.interactive,
        "tty": spec.tty,
        "ports": [(port.container, port.protocol) for port in spec.ports],
        "host_config": {key: value for key, value in host.items() if value not in _NOTHING},
    }


def _split(tokens: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Each option by its long name with its value; a flag has the value `true`."""
    rest = list(tokens)
    while rest:
        token = rest.pop(0)
        if not token.startswith("-") or token in {"-", "--"}:
            raise _refused(token, "stands where an option is expected; docker would take it for the image")
        if token.startswith("--"):
            written, equals, value = token.partition("=")
            option = _ALIASES.get(written, written)
            yield option, _value(option, written, value if equals else None, rest)
        else:
            yield from _short(token, rest)


def _short(token: str, rest: list[str]) -> Iterator[tuple[str, str]]:
    """A group of one-letter options, such as -itd; the last may take a value, in the same token or the next."""
    letters = token[1:]
    while letters:
        written, letters = f"-{letters[0]}", letters[1:]
        option = _ALIASES.get(written, written)
        joined = letters.startswith("=") or (letters and option not in _FLAGS)
        value = letters.removeprefix("=") if joined else None
        yield option, _value(option, written, value, rest)
        if joined:
            return


def _value(option: str, written: str, value: str | None, rest: list[str]) -> str:
    if option in _FLAGS:
        if value is not None and value not in _TRUE | _FALSE:
            raise _refused(written, f"is on or off, not `{value}`")
        return "true" if value is None else value
    if option not in _KNOWN:
        raise MatrixError(
            f"the docker run option {written} is not one that FlagRelease knows",
            remedy=f"leave it out, or write it with one of: {' '.join(_KNOWN)}",
        )
    if value is None:
        if not rest:
            raise _refused(written, "has no value")
        value = rest.pop(0)
    return value


def _device_request(gpus: Gpus) -> dict[str, Any]:
    return {
        "Driver": "",
        "Count": gpus.count or 0,
        "DeviceIDs": list(gpus.ids) or None,
        "Capabilities": [["gpu"]],
        "Options": {},
    }


def _capabilities(names: Sequence[str]) -> list[str]:
    """As docker's command line sends them."""
    upper = [name.upper() for name in names]
    return sorted({name if name == "ALL" or name.startswith("CAP_") else f"CAP_{name}" for name in upper})


def _reason(error: ValueError) -> str:
    """What is wrong, in the words of the first of a validation's errors."""
    if not isinstance(error, ValidationError):
        return str(error)
    detail = error.errors(include_url=False)[0]
    reason = detail["msg"].removeprefix("Value error, ")
    return f"`{detail['input']}`: {reason}" if detail["type"] == "string_pattern_mismatch" else reason


def _refused(option: str, reason: str) -> MatrixError:
    subject = f"docker run {option}" if option.startswith("-") else f"`{option}`" if option else "docker run"
    return MatrixError(f"{subject}: {reason}", remedy="correct it where the container's options stand")
