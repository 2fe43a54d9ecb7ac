#!/bin/sh
# Makes this host a worker of a chip's pool: infra/worker/install.sh POOL SERVER [WHEEL]
#
#   sudo --preserve-env=PREFECT_API_AUTH_STRING,PGPASSWORD,FLAGRELEASE_STORE,FLAGRELEASE_EVIDENCE \
#     infra/worker/install.sh metax http://control:4200/api dist/flagrelease-0.1.0-py3-none-any.whl
#
# POOL    a chip's key, as in matrix.yaml, or control
# SERVER  address of Prefect's API
# WHEEL   FlagRelease's wheel; without it, this checkout
# PYTHON  3.11 or newer, with venv; default python3
# EXTRAS  of FlagRelease; default postgresql,hubs
#
# Settings and secrets come from the caller's environment (PREFECT_API_AUTH_STRING, PGPASSWORD, FLAGRELEASE_*, tokens of hubs),
# never from arguments, which every user of a host can read. They are kept in /etc/flagrelease/POOL.env (mode 600). A second
# run changes what is given and keeps the rest, so it is also the way to upgrade: it waits until this host's runs have ended.
set -eu

root=${DESTDIR:-}
here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-python3}
venv=$root/opt/flagrelease
settings='^(PREFECT_[A-Z_]+|FLAGRELEASE_[A-Z_]+|PG[A-Z]+|AWS_[A-Z_]+|HF_[A-Z_]+|MODELSCOPE_[A-Z_]+|PIP_[A-Z_]+|DOCKER_HOST|(HTTPS?|NO|https?|no)_(PROXY|proxy))$'

say() { echo "install: $1"; }
fail() {
  echo "install: $1" >&2
  echo "  -> $2" >&2
  exit 1
}

case $# in 2 | 3) ;; *) fail "usage: $0 POOL SERVER [WHEEL]" "for example: $0 metax http://control:4200/api" ;; esac
pool=$1 server=$2 wheel=${3:-$(cd "$here/../.." && pwd)}
case $pool in '' | *[!a-z0-9_-]*) fail "'$pool' is no name of a pool" "name a chip's key, as in matrix.yaml" ;; esac
case $server in
  http://*/api | https://*/api) ;;
  *) fail "'$server' is no address of Prefect's API" "it ends in /api, for example http://control:4200/api" ;;
esac

# 1. What this host must have, before anything is changed.
[ -n "$root" ] || [ "$(id -u)" = 0 ] || fail "this must run as root" "sudo --preserve-env=… $0 $*"
command -v systemctl >/dev/null || fail "this host has no systemd" "start the worker by hand: docs/running.md"
"$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
  fail "$python is missing, older than 3.11, or has no venv" "install it (apt-get install python3-venv), or name one: PYTHON=python3.12 $0 $*"
[ -e "$wheel" ] || fail "there is no $wheel" "build the wheel: pip wheel --no-deps --wheel-dir dist ."
"$python" - "$server" <<'PY' || fail "no Prefect server answers at $server" "open $server/health from this host; start it, or open its firewall"
import sys, urllib.request
urllib.request.build_opener(urllib.request.ProxyHandler({})).open(sys.argv[1] + "/health", timeout=10)
PY

# 2. Settings of the worker: what was kept, what the caller's environment gives, and the server's address.
umask 077
mkdir -p "$root/etc/flagrelease"
file=$root/etc/flagrelease/$pool.env
PREFECT_API_URL=$server "$python" - "$file" "$pool" "$settings" <<'PY' || fail "$file cannot be written" "see the reason above"
import os, pathlib, re, sys

file, pool, names = pathlib.Path(sys.argv[1]), sys.argv[2], re.compile(sys.argv[3])
kept = {}
if file.exists():
    for line in file.read_text().splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            kept[name] = value
home = f"/var/lib/flagrelease/{pool}"
for name, value in {
    "FLAGRELEASE_HOME": home,
    "FLAGRELEASE_OUTPUT": f"{home}/output",
    "PYTHONTZPATH": "",
    "DO_NOT_TRACK": "1",
}.items():
    kept.setdefault(name, f'"{value}"')
for name, value in os.environ.items():
    if names.match(name) and name not in ("PREFECT_HOME", "PREFECT_PROFILE"):
        if "\n" in value:
            sys.exit(f"{name} has two lines; systemd's environment files cannot hold it")
        # systemd reads backslash escapes within double quotes, and expands nothing.
        kept[name] = '"' + re.sub(r'(["\\`$])', r"\\\1", value) + '"'
text = "".join(f"{name}={kept[name]}\n" for name in sorted(kept))
aside = file.with_suffix(".new")
aside.write_text("# Of flagrelease-worker@" + pool + ". Mode 600: it may hold secrets.\n" + text)
aside.chmod(0o600)
aside.replace(file)
PY
say "settings: $file"

# 3. The worker's programs. Runs under way import modules as they go, so they end before these change.
umask 022
# Every worker of this host uses them.
for unit in $(systemctl list-units --plain --no-legend --state=active 'flagrelease-worker@*' | awk '{print $1}'); do
  say "waiting until the runs of $unit have ended"
  systemctl stop "$unit"
  stopped="${stopped:-} $unit"
done
mkdir -p "$root/var/lib/flagrelease/$pool/prefect"
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
say "installing $wheel into $venv"
constraints=$here/../constraints.txt
[ -e "$constraints" ] || constraints=/dev/null
"$venv/bin/python" -m pip --disable-pip-version-check --quiet install --upgrade --constraint "$constraints" \
  "${wheel}[${EXTRAS:-postgresql,hubs}]" || fail "FlagRelease cannot be installed" "see pip's error above; PIP_INDEX_URL names another index"
install -m 755 "$here/drain.sh" "$venv/bin/drain"

# 4. Whether this host can serve on the chip: devices, engine, tools. With the worker's own settings.
if [ "$pool" != control ]; then
  "$python" - "$file" "$venv/bin/flagrelease" doctor --chip "$pool" <<'PY' ||
import os, re, sys

for line in open(sys.argv[1]):
    name, equals, value = line.rstrip("\n").partition("=")
    if equals and not line.startswith("#"):
        os.environ[name] = re.sub(r"\\(.)", r"\1", value[1:-1])
os.execv(sys.argv[2], sys.argv[2:])
PY
    fail "this host cannot serve on $pool" "get what is missing, as said above, and run this again"
fi

# 5. The unit.
mkdir -p "$root/etc/systemd/system"
install -m 644 "$here/flagrelease-worker@.service" "$root/etc/systemd/system/flagrelease-worker@.service"
systemctl daemon-reload
systemctl enable "flagrelease-worker@$pool"
for unit in ${stopped:-} "flagrelease-worker@$pool"; do systemctl start "$unit"; done
say "flagrelease-worker@$pool runs; see it: journalctl -u flagrelease-worker@$pool, and in the dashboard under Work Pools"
