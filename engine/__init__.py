"""The core shared by all trainers: configuration, training loop, checkpoints, tracking, streaming layers."""

import timbre  # noqa: F401 - for `python -m`, puts the current folder last on the import path
