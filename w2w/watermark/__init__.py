"""An inaudible watermark that identifies converted audio: added by default, detected by a command."""

from w2w.watermark.echo import DEFAULT_KEY, Marker

__all__ = ["DEFAULT_KEY", "Marker"]
