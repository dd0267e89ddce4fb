"""What every trainer shares: configuration, the loop, checkpoints, tracking and streaming layers."""

import timbre  # noqa: F401 - for `python -m`, puts the current folder last on the import path
