"""A mark in the sound that says it was made by a machine: inaudible, on by default, found by a command."""

from w2w.watermark.echo import DEFAULT_KEY, Marker

__all__ = ["DEFAULT_KEY", "Marker"]
