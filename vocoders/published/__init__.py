"""Published vocoders' files: whose tensors they hold, and which network they are for."""

from vocoders.published.layout import from_published, to_published

__all__ = ["from_published", "to_published"]
