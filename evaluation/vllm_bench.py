"""Holds `vllm bench serve` in a process of vLLM's own Python, which imports vLLM once for all runs.

Each line of standard input is one run: its options as a JSON list. Standard output says `ready <version>`, then `done`
after each run; what the tool prints goes to standard error. The process ends with its input.
"""

from __future__ import annotations

import sys


def main() -> None:
    """Run until the input ends; a run that fails ends the process with its traceback."""
    # Python puts this file's folder first, and its statistics.py is not the one that vLLM means.
    if not getattr(sys.flags, "safe_path", False):
        del sys.path[0]

    import argparse
    import contextlib
    import json
    from importlib.metadata import version

    answers = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):
        from vllm.benchmarks.serve import add_cli_args
        from vllm.benchmarks.serve import main as run

        print("ready", version("vllm"), file=answers, flush=True)
        for line in sys.stdin:
            parser = argparse.ArgumentParser()
            add_cli_args(parser)
            run(parser.parse_args(json.loads(line)))
            print("done", file=answers, flush=True)


if __name__ == "__main__":
    main()
