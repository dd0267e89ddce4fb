"""Speed and memory: each module measures and prints a table."""

import timbre  # noqa: F401 - for `python -m`, puts the current folder last on the import path
