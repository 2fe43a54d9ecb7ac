"""Images that stand in for PostgreSQL's and the registry's official ones, made of this machine's own packages.

They keep what compose.yaml rests on: the variables, the folder of scripts for a first start, ports, volumes, users.
"""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import tarfile
from collections.abc import Iterable
from pathlib import Path

import docker

from tests.conftest import postgresql_bin
from tests.integration.images import python_base

POSTGRESQL_ENTRY = """#!/bin/sh
# Stands in for the entry of PostgreSQL's image: a first start makes the cluster and runs the scripts, on a socket only.
set -e
data=/var/lib/postgresql/data
if [ ! -e $data/PG_VERSION ]; then
  echo "$POSTGRES_PASSWORD" >/tmp/password
  initdb --username postgres --pwfile /tmp/password --auth-local trust --auth-host scram-sha-256 --encoding UTF8 \\
    --locale C --no-sync $data
  echo 'host all all all scram-sha-256' >>$data/pg_hba.conf
  pg_ctl --pgdata $data --wait --options "-c listen_addresses=" start
  for script in /docker-entrypoint-initdb.d/*.sh; do "$script"; done
  pg_ctl --pgdata $data --wait stop
fi
exec postgres -D $data -c listen_addresses=* -c fsync=off
"""
REGISTRY_CONFIGURATION = """version: 0.1
storage: {filesystem: {rootdirectory: /var/lib/registry}}
http: {addr: ":5000"}
"""


def postgresql(client: docker.DockerClient, name: str) -> None:
    """An image that stands in for postgres, of the server that this machine has."""
    programs = postgresql_bin()
    assert programs
    # Debian's layout: programs below lib, and what they read below share.
    share = Path("/usr/share/postgresql") / programs.parent.name
    libraries = [path for path in (programs.parent / "lib").glob("*.so") if "llvm" not in path.name]
    wanted = [
        programs / each for each in ("postgres", "initdb", "pg_ctl", "pg_isready", "psql", "pg_dump", "pg_restore")
    ]
    dockerfile = f"""
    FROM {python_base()}
    ADD files.tar /
    RUN echo postgres:x:999:999::/tmp:/bin/sh >>/etc/passwd && mkdir -p /var/lib/postgresql/data /var/run/postgresql \\
     && chown -R 999:999 /var/lib/postgresql /var/run/postgresql
    ENV PATH={programs}:/usr/bin:/bin
    USER 999:999
    CMD ["/entry.sh"]
    """
    paths = [*wanted, *libraries, *share.rglob("*"), *Path("/usr/share/zoneinfo/Etc").glob("UTC")]
    _build(
        client, name, dockerfile, [*paths, *_shared_libraries([*wanted, *libraries])], {"entry.sh": POSTGRESQL_ENTRY}
    )


def registry(client: docker.DockerClient, name: str) -> None:
    """An image that stands in for registry, of the program that infra/engine/start.sh installs."""
    program = Path(shutil.which("docker-registry") or "/usr/bin/docker-registry")
    dockerfile = f"""
    FROM {python_base()}
    ADD files.tar /
    RUN mkdir -p /var/lib/registry
    CMD ["{program}", "serve", "/registry.yml"]
    """
    _build(client, name, dockerfile, [program, *_shared_libraries([program])], {"registry.yml": REGISTRY_CONFIGURATION})


def _shared_libraries(programs: Iterable[Path]) -> set[Path]:
    argv = ["ldd", *map(str, programs)]
    found = subprocess.run(argv, capture_output=True, text=True, check=False).stdout
    return {Path(path) for path in re.findall(r"=> (/\S+)", found)}


def _build(
    client: docker.DockerClient, name: str, dockerfile: str, paths: Iterable[Path], texts: dict[str, str]
) -> None:
    files, context = io.BytesIO(), io.BytesIO()
    with tarfile.open(fileobj=files, mode="w", dereference=True) as tar:
        for path in sorted(set(paths)):
            # A merged /usr: /lib is a link in the image, which must stay one.
            target = re.sub(r"^/(bin|lib|lib64|sbin)/", r"/usr/\1/", str(path))
            if path.is_file():
                tar.add(path, arcname=target.lstrip("/"))
        for text_name, text in texts.items():
            _add(tar, text_name, text.encode())
    with tarfile.open(fileobj=context, mode="w") as tar:
        _add(tar, "Dockerfile", dockerfile.encode())
        _add(tar, "files.tar", files.getvalue())
    context.seek(0)
    client.images.build(fileobj=context, custom_context=True, tag=name, rm=True, forcerm=True)


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(data), 0o755
    tar.addfile(entry, io.BytesIO(data))
