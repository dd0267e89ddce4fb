"""Studies and ablations: commands that train, score and print tables; no other package imports them."""

import timbre  # noqa: F401 - for `python -m`, puts the current folder last on the import path
