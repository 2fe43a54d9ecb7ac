"""Runs a script inside an image, shut off from the network, and returns what it printed."""

from __future__ import annotations

from collections.abc import Sequence

import docker
from docker.errors import APIError

from flagrelease.errors import ImageError
from runtime.docker_engine import engine_errors, explanation

TIMEOUT_S = 300
LABEL = "io.flagos.flagrelease.inspection"
"""Marks the containers of this module."""


def run_inside(client: docker.DockerClient, image: str, arguments: Sequence[str]) -> str:
    """Standard output of a command in `image`: as root (some images keep Python in /root), without network or rights.

    Raises ImageError where the command is not there or fails.
    """
    with engine_errors(f"running {arguments[0]} in {image}"):
        container = client.containers.create(
            image,
            entrypoint=[arguments[0]],
            command=list(arguments[1:]),
            user="0:0",
            network_mode="none",
            cap_drop=["ALL"],
            security_opt=["no-new-privileges"],
            read_only=True,
            labels={LABEL: image},
        )
        try:
            container.start()
            code = container.wait(timeout=TIMEOUT_S)["StatusCode"]
            said = container.logs(stdout=False, stderr=True).decode(errors="replace").strip()
            output = container.logs(stdout=True, stderr=False).decode(errors="replace")
        except APIError as error:
            raise _failed(image, arguments[0], explanation(error)) from error
        finally:
            container.remove(force=True, v=True)
    if code != 0:
        raise _failed(image, arguments[0], f"exit code {code}: {said[-500:]}")
    return output


def _failed(image: str, command: str, reason: str) -> ImageError:
    return ImageError(
        f"{command} cannot be run in the image {image}: {reason}",
        remedy=f"an image needs {command} on its PATH; try: docker run --rm --entrypoint {command} {image} --version",
    )
