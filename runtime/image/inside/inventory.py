"""Runs inside an image (`python3 -c`): prints the system, its packages and the Python packages there are, as JSON."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator
from importlib.metadata import Distribution, distributions
from pathlib import Path


def stanzas(text: str) -> Iterator[dict[str, str]]:
    """The packages that a status file of dpkg lists, each as its fields."""
    for block in text.split("\n\n"):
        fields: dict[str, str] = {}
        for line in block.splitlines():
            name, colon, value = line.partition(":")
            if colon and not line.startswith((" ", "\t")):
                fields[name] = value.strip()
        if fields.get("Package"):
            yield fields


def installed() -> Iterator[dict[str, str]]:
    """The installed packages of the system."""
    # Images without a package manager keep one file a package in status.d.
    files = [Path("/var/lib/dpkg/status"), *sorted(Path("/var/lib/dpkg/status.d").glob("*"))]
    for file in files:
        if not file.is_file() or file.suffix == ".md5sums":
            continue
        for fields in stanzas(file.read_text(errors="replace")):
            if fields.get("Status", "install ok installed").endswith(" installed"):
                yield {
                    "name": fields["Package"],
                    "version": fields.get("Version", ""),
                    "architecture": fields.get("Architecture", ""),
                }


def release() -> dict[str, str]:
    """What the system calls itself."""
    for file in ("/etc/os-release", "/usr/lib/os-release"):
        if Path(file).is_file():
            pairs = (line.partition("=") for line in Path(file).read_text().splitlines())
            return {name: value.strip("\"'") for name, equals, value in pairs if equals}
    return {}


def first(found: Distribution, field: str) -> str | None:
    """A field of a package's metadata; none where it is missing, as in folders that an uninstallation left."""
    values = found.metadata.get_all(field)
    return str(values[0]) if values else None


python = {
    (first(found, "Name"), first(found, "Version")): first(found, "License-Expression") for found in distributions()
}
system = release()
print(
    json.dumps(
        {
            "system": {key: system.get(key, "") for key in ("ID", "VERSION_ID", "PRETTY_NAME")},
            "python": platform.python_version(),
            "packages": [
                {"name": name, "version": version, "licence": text} for (name, version), text in python.items()
            ],
            "system_packages": list(installed()),
        }
    )
)
