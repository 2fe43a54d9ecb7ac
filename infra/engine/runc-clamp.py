#!/usr/bin/python3 -IS
"""A container runtime that asks runc for no more than this machine's root has. For tests only.

Where root lacks CAP_SYS_RESOURCE (a virtual machine, a container), runc refuses `--privileged`, `--cap-add ALL`,
`--ulimit memlock=-1` and a negative `--oom-score-adj`. This program cuts those wishes in the container's bundle down to
the bounding set and the hard limits and then becomes runc. It gains no right: `docker inspect` shows what was asked for,
the container has what the machine gives.
"""

import json
import os
import resource
import shutil
import sys

# In the kernel's order: the place is the capability's bit.
CAPABILITIES = (
    "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE"
    " NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN"
    " SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE"
    " MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE"
).split()


def bounding_set():
    with open("/proc/self/status") as status:
        mask = next(int(line.split()[1], 16) for line in status if line.startswith("CapBnd:"))
    return {f"CAP_{name}" for bit, name in enumerate(CAPABILITIES) if mask >> bit & 1}


def clamp(process):
    allowed = bounding_set()
    for kind, wanted in (process.get("capabilities") or {}).items():
        process["capabilities"][kind] = [name for name in wanted or [] if name in allowed]
    for limit in process.get("rlimits") or []:
        hard = resource.getrlimit(getattr(resource, limit["type"]))[1]
        if hard != resource.RLIM_INFINITY:
            limit["hard"] = min(limit["hard"], hard)
            limit["soft"] = min(limit["soft"], limit["hard"])
    if process.get("oomScoreAdj", 0) < 0:
        with open("/proc/self/oom_score_adj") as own:
            process["oomScoreAdj"] = max(process["oomScoreAdj"], int(own.read()))


def option(arguments, *names):
    for argument, following in zip(arguments, [*arguments[1:], ""]):
        if argument in names:
            return following
        name, _, value = argument.partition("=")
        if value and name in names:
            return value
    return None


def main():
    arguments = sys.argv[1:]
    path = None
    if {"create", "run"} & set(arguments):
        path = os.path.join(option(arguments, "--bundle", "-b") or ".", "config.json")
    elif "exec" in arguments:
        path = option(arguments, "--process", "-p")
    if path:
        with open(path) as file:
            document = json.load(file)
        clamp(document.get("process", document))
        with open(path, "w") as file:
            json.dump(document, file)
    runc = shutil.which("runc", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
    os.execv(runc, [runc, *arguments])


main()
