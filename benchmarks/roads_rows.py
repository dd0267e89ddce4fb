"""The rows of the comparison: which trained arm each takes, what makes its waves, and what to know of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.roads_arms import Bench, finished, folder_of
from eval.pairs import Pair
from w2w.converter import Converter
from w2w.weights import RELEASED


@dataclass(frozen=True, kw_only=True)
class Road:
    """One way from a source and a voice to a wave."""

    label: str
    arm: str = ""
    """Whose training it needs; empty: the weights that come with the package."""
    notes: tuple[str, ...] = ()
    """Below the table."""
    scored: bool = True
    """Whether it converts the pairs, or is timed alone."""

    def there(self, bench: Bench) -> bool:
        """Whether what it needs is trained."""
        if self.arm:
            return finished(folder_of(bench, self.arm)) is not None
        return (RELEASED / "model.safetensors").is_file()

    def export(self, bench: Bench) -> Path:
        """The folder of its converter."""
        return folder_of(bench, self.arm) / "export" if self.arm else RELEASED

    def weights(self, bench: Bench) -> Path:
        """The file that outputs must be newer than."""
        return self.export(bench) / "model.safetensors"

    def open(self, bench: Bench) -> Any:
        """The converter, ready."""
        return Converter.from_pretrained(self.export(bench))

    def pairs(self, pairs: Sequence[Pair]) -> list[Pair]:
        """The pairs as this road is asked for them."""
        return list(pairs)

    def spent(self, bench: Bench) -> dict[str, Any]:
        """What training it cost."""
        return {"training": finished(folder_of(bench, self.arm))} if self.arm else {}


LONGER = "Trained longer, in stages: see its card. Not part of the comparison at equal time."

ROADS: dict[str, Road] = {
    "w2w": Road(label="wave-to-wave", arm="w2w"),
    "released": Road(label="wave-to-wave, released", notes=(LONGER,)),
}
