#!/usr/bin/env bash
# A Docker engine and two registries on a Debian machine, for tests: infra/engine/start.sh [start|stop|status]
#
# 127.0.0.1:5000 is an open registry, 127.0.0.1:5001 asks for a name and a password. What already answers is left as it
# is, so the script can be called again at any time. What is missing is installed with apt-get. It needs root, and neither
# systemd nor Docker Hub. Logs, process ids and the registries' files lie in $FLAGRELEASE_ENGINE_HOME.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
home=${FLAGRELEASE_ENGINE_HOME:-/var/lib/flagrelease-engine}
open_registry=127.0.0.1:5000
closed_registry=127.0.0.1:5001
# They protect nothing: the registry listens on loopback and holds images of tests.
user=ci password=ci-password
deadline_s=60
export DEBIAN_FRONTEND=noninteractive
unset DOCKER_HOST DOCKER_CONTEXT

say() { printf 'engine: %s\n' "$*"; }
fail() {
  printf 'engine: %s\n' "$*" >&2
  exit 1
}

engine_answers() { docker version --format '{{.Server.Version}}' >/dev/null 2>&1; }
open_answers() { curl --fail --silent --max-time 2 --output /dev/null "http://$open_registry/v2/"; }
closed_answers() {
  curl --fail --silent --max-time 2 --output /dev/null --user "$user:$password" "http://$closed_registry/v2/"
}

# Whether process $1 runs and is called $2. A process that init has not reaped yet is there, but does not run.
runs() {
  local name state
  [ -r "/proc/$1/stat" ] && read -r _ name state _ <"/proc/$1/stat" && [ "$name" = "($2)" ] && [ "$state" != Z ]
}

install_missing() {
  local missing=()
  command -v dockerd >/dev/null || missing+=(docker.io)
  command -v docker-registry >/dev/null || missing+=(docker-registry)
  # For base images that need no hub.
  command -v busybox >/dev/null || missing+=(busybox-static)
  # For the tests of infra/compose.yaml.
  command -v docker-compose >/dev/null || docker compose version >/dev/null 2>&1 || missing+=(docker-compose)
  command -v curl >/dev/null || missing+=(curl)
  [ ${#missing[@]} -gt 0 ] || return 0
  say "installing ${missing[*]}"
  local install=(apt-get -qq install -y --no-install-recommends "${missing[@]}")
  # Package lists are missing or old on many machines: a second try with new ones.
  "${install[@]}" >"$home/apt.log" 2>&1 9>&- ||
    { apt-get -qq update && "${install[@]}"; } >>"$home/apt.log" 2>&1 9>&- ||
    { tail -n 20 "$home/apt.log" >&2 && fail "apt-get install ${missing[*]} failed"; }
}

# launch NAME CHECK COMMAND…: start a daemon in a session of its own and wait until the check passes.
launch() {
  local name=$1 check=$2 end=$((SECONDS + deadline_s))
  shift 2
  setsid nohup "$@" >>"$home/$name.log" 2>&1 </dev/null 9>&- &
  echo $! >"$home/$name.pid"
  until "$check"; do
    # The kernel keeps 15 letters of a name.
    runs "$(cat "$home/$name.pid")" "$(basename "$1" | cut -c1-15)" && [ $SECONDS -lt $end ] ||
      { tail -n 15 "$home/$name.log" >&2 && fail "$name does not answer; its log: $home/$name.log"; }
    sleep 0.1
  done
  say "$name started"
}

start_engine() {
  engine_answers && return 0
  # Left by an engine that was killed, these keep the next one from starting as soon as their numbers are used again.
  local file
  for file in /var/run/docker.pid:dockerd /var/run/docker/containerd/containerd.pid:containerd; do
    [ ! -e "${file%:*}" ] || runs "$(cat "${file%:*}")" "${file#*:}" || rm -f "${file%:*}"
  done
  local options=()
  # Where root lacks CAP_SYS_RESOURCE (bit 24), runc refuses --privileged and --ulimit memlock=-1.
  local bounding
  bounding=$(awk '/^CapBnd/ {print $2}' /proc/self/status)
  (((0x$bounding >> 24 & 1) == 1)) || options=(--add-runtime "clamp=$here/runc-clamp.py" --default-runtime clamp)
  launch dockerd engine_answers dockerd "${options[@]}"
}

# registry_file NAME ADDRESS [HTPASSWD]: the configuration of one registry. Debian's own does not start.
registry_file() {
  cat <<EOF
version: 0.1
log: {level: warn, accesslog: {disabled: true}}
storage: {filesystem: {rootdirectory: "$home/$1"}, delete: {enabled: true}}
http: {addr: "$2"}
${3:+auth: {htpasswd: {realm: tests, path: "$3"\}\}}
EOF
}

start_registries() {
  if ! open_answers; then
    registry_file registry "$open_registry" >"$home/registry.yml"
    launch registry open_answers docker-registry serve "$home/registry.yml"
  fi
  if ! closed_answers; then
    # The registry takes bcrypt only, and Debian 12's own Python has it.
    USER_NAME=$user PASSWORD=$password /usr/bin/python3 -W ignore -c '
import crypt, os
salt = crypt.mksalt(crypt.METHOD_BLOWFISH, rounds=32)
print(os.environ["USER_NAME"] + ":" + crypt.crypt(os.environ["PASSWORD"], salt))' >"$home/htpasswd"
    registry_file registry-closed "$closed_registry" "$home/htpasswd" >"$home/registry-closed.yml"
    launch registry-closed closed_answers docker-registry serve "$home/registry-closed.yml"
  fi
}

stop_one() { # NAME PROCESS
  local pid
  pid=$(cat "$home/$1.pid" 2>/dev/null) || return 0
  if runs "$pid" "$2"; then
    kill "$pid"
    # The engine gives each container ten seconds.
    for _ in $(seq 300); do runs "$pid" "$2" || break; sleep 0.1; done
    runs "$pid" "$2" && fail "$1 (process $pid) does not stop"
    say "$1 stopped"
  fi
  rm -f "$home/$1.pid"
}

status() {
  engine_answers || { say "no engine answers" && return 3; }
  say "$(docker info --format 'Docker {{.ServerVersion}}, storage {{.Driver}}, runtime {{.DefaultRuntime}}')"
  open_answers && say "registry http://$open_registry, open" || say "no registry answers on $open_registry"
  closed_answers && say "registry http://$closed_registry, user $user" || say "no registry answers on $closed_registry"
}

[ "$(id -u)" = 0 ] || fail "this must run as root"
mkdir -p "$home"
exec 9>"$home/lock"
flock --timeout 300 9 || fail "another start of the engine holds $home/lock"
case ${1:-start} in
  start)
    install_missing
    start_engine
    start_registries
    status
    ;;
  stop)
    stop_one registry docker-registry
    stop_one registry-closed docker-registry
    stop_one dockerd dockerd
    ;;
  status) status ;;
  *) fail "usage: $0 [start|stop|status]" ;;
esac
