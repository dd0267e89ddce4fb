"""The converter for people: a page to use by hand and an HTTP interface for programs, on one machine."""

import timbre  # noqa: F401 - for `python -m`, puts the current folder last on the import path
