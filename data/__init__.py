"""Audio files, frontends, manifests, batches and synthetic corpora."""

import timbre  # noqa: F401 - for `python -m`, puts the current folder last on the import path
