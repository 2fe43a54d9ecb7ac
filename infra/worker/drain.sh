#!/bin/sh
# Lets a worker run dry, then ends it: drain POOL, with the worker's process in MAINPID and PREFECT_API_URL set
#
# The worker's unit calls it. While the runs of this host go on, its pool is paused, so that no host of the pool gets a new
# run; queued ones wait. A pool that an operator had paused stays so.
set -u

pool=$1
prefect=$(dirname "$0")/prefect
poll_s=${DRAIN_POLL_S:-5}
# Looks in a row at which nothing runs: a worker may have fetched a run just before the pause, for in ten seconds.
looks=4

runs() { # processes that the worker started and that have not ended
  # shellcheck disable=SC2009  # pgrep counts those that have ended, too
  ps -o stat= --ppid "$MAINPID" | grep -cv '^Z'
}

[ -n "${MAINPID:-}" ] || exit 0
case $("$prefect" work-pool inspect "$pool" --output json 2>/dev/null | tr -d ' \n') in
  *'"is_paused":false'*)
    ours=yes
    "$prefect" work-pool pause "$pool" || ours=no
    ;;
  *'"is_paused":true'*) ours=no ;;
  *)
    # Nobody gives out runs then; those under way are waited for all the same.
    echo "drain: the server does not answer; the pool is not paused" >&2
    ours=no
    ;;
esac

quiet=0
said=no
while kill -0 "$MAINPID" 2>/dev/null && [ "$quiet" -lt "$looks" ]; do
  if [ "$(runs)" -eq 0 ]; then
    quiet=$((quiet + 1))
  else
    quiet=0
    [ "$said" = yes ] || echo "drain: waiting for the runs of pool $pool on this host: $(runs)"
    said=yes
  fi
  sleep "$poll_s"
done

kill -TERM "$MAINPID" 2>/dev/null
while kill -0 "$MAINPID" 2>/dev/null; do sleep "$poll_s"; done
[ "$ours" = no ] || "$prefect" work-pool resume "$pool"
echo "drain: the worker of pool $pool has ended"
