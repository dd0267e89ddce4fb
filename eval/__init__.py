"""Scoring of converted speech: similarity, intelligibility, quality, pitch, beside toplines and baselines."""

import timbre  # noqa: F401 - for `python -m`, puts the current folder last on the import path
