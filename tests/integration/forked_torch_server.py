"""Loads a model once and serves it from forked processes, so that a test can start many servers of torch_reference.

A stand-in for starting them anew, which takes ten seconds each. One JSON command a line on standard input, one JSON
answer a line on standard output. It runs in the Python that has torch.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

# In the Python that has torch there is no FlagRelease; importing `runtime.engines` would ask for it.
sys.path.insert(0, str(Path(__file__).parents[2] / "runtime" / "engines"))

if TYPE_CHECKING:
    from runtime.engines import torch_reference_server as server
else:
    import torch_reference_server as server


def serve(model: server.Model, command: dict[str, Any]) -> None:
    os.environ["FLAG_GEMS_STAND_IN_FAULTS"] = command["faults"]
    if command["gems"]:
        model.use_operators(include=[], exclude=command["exclude"], path=command["path"])
    server.serve(model, "m", "127.0.0.1", command["port"])


def main() -> None:
    model = server.Model(server.parsed(sys.argv[1:]))
    said, sys.stdout = sys.stdout, sys.stderr
    child, code = 0, None
    for line in sys.stdin:
        command = json.loads(line)
        if command["do"] == "start":
            child, code = os.fork(), None
            if child == 0:
                serve(model, command)
            answer: Any = child
        elif command["do"] == "ended":
            # Its end is told once only.
            ended, status = os.waitpid(child, os.WNOHANG) if code is None else (0, 0)
            answer = code = os.waitstatus_to_exitcode(status) if ended else code
        else:
            try:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
            except (ProcessLookupError, ChildProcessError):
                pass
            answer = None
        print(json.dumps(answer), file=said, flush=True)


if __name__ == "__main__":
    main()
