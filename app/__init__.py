"""A web page and an HTTP interface to the converter, served from one machine."""

import timbre  # noqa: F401 - for `python -m`, puts the current folder last on the import path
