"""Harnesses: what asks a served model the questions of a benchmark."""
