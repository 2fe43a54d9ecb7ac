"""FlagGems' operators: which there are, read without a device, and whether each computes what it should.

`catalogue` reads the installed FlagGems as text. `check` runs one process an operator (`worker`), which builds the
inputs (`shapes`, `cases`), asks the operator and a reference in float64 (`reference`), and judges (`judge`).

What the workers import needs the standard library, torch and FlagGems alone, so that they can run in an environment
that has nothing else of ours.
"""
