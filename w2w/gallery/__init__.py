"""Named voices: of people with freely licensed recordings, invented ones, and the user's own."""

import timbre  # noqa: F401 - for `python -m`, puts the current folder last on the import path
