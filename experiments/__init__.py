"""Studies and ablations: each a command that trains, scores and prints a table; nothing imports them."""

import timbre  # noqa: F401 - for `python -m`, puts the current folder last on the import path
