"""Find the operators that make a candidate differ from its baseline (docs/bisect.md)."""
