"""The waveform-to-waveform voice converter."""

from typing import TYPE_CHECKING, Any

import timbre  # noqa: F401 - with `python -m`, it moves the current folder to the end of the import path

if TYPE_CHECKING:
    from w2w.converter import Converter as Converter

__all__ = ["Converter"]


def __getattr__(name: str) -> Any:
    # Imported on first access, so that `import w2w` stays cheap.
    if name == "Converter":
        from w2w.converter import Converter

        return Converter
    raise AttributeError(f"module 'w2w' has no attribute {name!r}")
