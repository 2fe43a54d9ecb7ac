"""Runs a command and ends it, with all its children, when the process that started the guard is gone.

`python guard.py COMMAND …`: standard input is the lifeline. Whoever starts the guard holds its other end;
when that process ends, however it ends, the lifeline reports end of file and the guard ends its process group.
"""

import os
import signal
import subprocess
import sys
import threading

GRACE_S = 10.0


def main() -> int:
    """Exit code of the command; 128 + n where signal n ended it."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    child = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, preexec_fn=_defaults)  # noqa: PLW1509 - the child only resets signals

    def watch() -> None:
        while os.read(0, 1024):
            pass
        child.terminate()
        try:
            child.wait(GRACE_S)
        finally:
            os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
    code = child.wait()
    return code if code >= 0 else 128 - code


def _defaults() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)


if __name__ == "__main__":
    sys.exit(main())
