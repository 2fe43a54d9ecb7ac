#!/bin/sh
# The image of Prefect's server and of workers: infra/worker/image.sh [NAME], from a checkout, on Linux
#
# BASE    image with Python and sh; default python:3.11-slim. For pods of a chip's pool: the image of a cell.
# PYTHON  of this host, of the version that BASE has: it fetches the wheels with pip. Default python3
# EXTRAS  of FlagRelease; default postgresql; with evidence in an object store postgresql,s3
set -eu

name=${1:-flagrelease-worker:latest}
base=${BASE:-python:3.11-slim}
python=${PYTHON:-python3}
extras=${EXTRAS:-postgresql}
fail() {
  echo "image: $1" >&2
  echo "  -> $2" >&2
  exit 1
}

cd "$(dirname "$0")/../.."
docker version >/dev/null 2>&1 || fail "no container engine answers" "start Docker, or name another engine in DOCKER_HOST"
version='import sys; print("%d.%d" % sys.version_info[:2])'
here=$("$python" -c "$version") || fail "$python does not run" "name Python: PYTHON=/usr/bin/python3.11 $0"
"$python" -m pip --version >/dev/null 2>&1 || fail "$python has no pip" "install it (apt-get install python3-pip python3-venv)"
inside=$(docker run --rm --entrypoint python3 "$base" -c "$version") ||
  fail "no python3 runs in $base" "pull it, or name another image: BASE=<image> $0"
[ "$here" = "$inside" ] ||
  fail "$python is $here, and $base has $inside: the wheels would not fit" "name a Python of that version: PYTHON=python$inside $0"

work=$(mktemp -d "${TMPDIR:-/tmp}/worker-image.XXXXXX")
trap 'rm -rf "$work"' EXIT
echo "image: fetching wheels for Python $here"
# async-timeout: redis asks for it before Python 3.11.3, which the base may have where this host has a newer one.
"$python" -m pip --disable-pip-version-check wheel --quiet --wheel-dir "$work/wheels" \
  --constraint infra/constraints.txt ".[$extras]" pip==25.0.1 async-timeout
mkdir "$work/own"
mv "$work"/wheels/flagrelease-*.whl "$work/own"
echo "image: building $name on $base"
docker build --quiet --network=none --build-arg "BASE=$base" --tag "$name" --file infra/worker/Dockerfile "$work" >/dev/null
docker image inspect --format "image: $name: {{.Size}} bytes, {{.Id}}" "$name"
