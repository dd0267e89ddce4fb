"""Benchmarks of speed, memory and robustness; each module is a command that prints a table."""

import timbre  # noqa: F401 - for `python -m`, puts the current folder last on the import path
