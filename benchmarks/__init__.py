"""Measurements: of the gate's error rates, and of what takes time."""
