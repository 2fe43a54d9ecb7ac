"""How a served model is measured and judged: benchmarks, harnesses, baselines, the gate."""
