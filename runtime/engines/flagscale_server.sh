# Serves through FlagScale in the foreground: sh -c SCRIPT - FOLDER NAME CONFIGURATION SECONDS
#
# FlagScale's launcher starts the server behind nohup and returns at once, with 0 whatever becomes of it. This script
# lives as long as the server, prints the server's log, and fails when the server ends: SECONDS lie between two looks.
set -u
folder=$1 name=$2 configuration=$3 seconds=$4
log=$folder/serve_logs/host_0_localhost.output
pid_file=$folder/serve_logs/pids/host_0_localhost.pid

# State and group of a process; fails where it is not there, or has ended and nobody has collected it.
look() {
    { read -r line < "/proc/$1/stat"; } 2> /dev/null || return 1
    # PID (NAME) STATE PARENT GROUP …, and a name may hold anything.
    # shellcheck disable=SC2086 # to be split into words
    set -- ${line##*") "}
    state=${1-} group=${3-}
    [ "$state" != Z ] && [ "$state" != X ]
}

others_of_the_group() {
    for each in /proc/[0-9]*; do
        each=${each#/proc/}
        [ "$each" != "$$" ] && look "$each" && [ "$group" = "$own_group" ] && return 0
    done
    return 1
}

# What the log got since the last time: cat reads on where the one before it ended.
print_log() {
    cat <&3
}

# FlagScale's own action `stop` ends every vLLM of the host. The launcher and the server are in this shell's group.
stop() {
    trap '' TERM INT HUP
    kill -TERM 0
    while others_of_the_group; do
        print_log
        sleep "$seconds"
    done
    print_log
    exit 143
}

mkdir -p "$folder/serve_logs" || exit
rm -f "$pid_file"
printf '%s' "$configuration" > "$folder/serve.yaml" || exit
: > "$log" || exit
exec 3< "$log"
look "$$"
own_group=$group
trap stop TERM INT HUP

flagscale serve "$name" "$folder/serve.yaml" &
wait "$!"
code=$?
looks=10
until [ -s "$pid_file" ]; do
    if [ "$code" -ne 0 ] || [ "$looks" -eq 0 ]; then
        print_log
        echo "flagscale serve ended with exit code $code and started no server" >&2
        [ "$code" -ne 0 ] || code=1
        exit "$code"
    fi
    looks=$((looks - 1))
    sleep "$seconds"
done

read -r server < "$pid_file"
while look "$server"; do
    print_log
    sleep "$seconds"
done
print_log
echo "the server that flagscale started has ended; its last words stand above" >&2
exit 1
