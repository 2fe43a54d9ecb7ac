"""Ports of this host: a free one, and whether one is taken."""

from __future__ import annotations

import errno
import socket

from flagrelease.errors import PortError, ServerSettingsError


def free_port(host: str = "127.0.0.1") -> int:
    """A port that nothing listens on at the moment."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


def require_free(host: str, port: int) -> None:
    """Raise PortError where another program listens on the port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise ServerSettingsError(
                    f"cannot listen on {host}:{port}: {error.strerror or error}",
                    remedy="give an address of this host with --host",
                ) from error
            raise port_taken(host, port) from error


def port_taken(host: str, port: int) -> PortError:
    """The error that says who has the port, and what to do."""
    return PortError(
        f"port {port} on {host} is in use by another program",
        remedy=f"end it (ss -ltnp 'sport = :{port}' names it) or choose another port with --port",
    )
