"""Voices with names: people who gave recordings freely, invented ones, and one's own."""

import timbre  # noqa: F401 - for `python -m`, puts the current folder last on the import path
