"""The rows of the comparison: which trained arm each takes, what makes its waves, and what to know of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.roads_arms import finished
from benchmarks.roads_trainers import Bench
from eval.pairs import Pair
from w2w.converter import Converter
from w2w.weights import RELEASED

LONGER = "trained longer, in stages: see its card; not part of the comparison at equal time"
LENT = "the released vocoder's own training is not in the time"
TUNED = "the second number: tuning the vocoder to the converter's mels, beyond the equal time"
RANDOM = "with random weights: for its speed and latency alone"


@dataclass(frozen=True, kw_only=True)
class Road:
    """One way from a source and a voice to a wave."""

    label: str
    arm: str = ""
    """Whose training it takes; empty: the weights that come with the package."""
    vocoder: str = ""
    """What speaks the mels of a road of two stages: an arm's vocoder, or a name that vocoders know."""
    notes: tuple[str, ...] = ()
    """Below the table."""
    untrained: Callable[[], Any] | None = None
    """Makes a converter with random weights, which is timed and not heard."""

    def there(self, bench: Bench) -> bool:
        """Whether what it needs is trained."""
        if self.untrained:
            return True
        if not self.arm:
            return (RELEASED / "model.safetensors").is_file()
        return all(finished(name, bench) is not None for name in self.trained(bench))

    def trained(self, bench: Bench) -> list[str]:
        """The arms it needs."""
        return [self.arm, *([self.vocoder] if self.vocoder in bench.presets else [])]

    def weights(self, bench: Bench) -> list[Path]:
        """The files that outputs must be newer than."""
        folders = [bench.folder(name) / "export" for name in self.trained(bench)] if self.arm else [RELEASED]
        return [folder / "model.safetensors" for folder in folders]

    def open(self, bench: Bench) -> Any:
        """The converter, ready."""
        if self.untrained:
            return self.untrained()
        if not self.arm:
            return Converter.from_pretrained()
        export = bench.folder(self.arm) / "export"
        if not self.vocoder:
            return Converter.from_pretrained(export)
        own = self.vocoder in bench.presets
        vocoder = bench.folder(self.vocoder) / "export" if own else self.vocoder
        return Converter.from_pretrained(export, vocoder=str(vocoder))

    def pairs(self, pairs: Sequence[Pair]) -> list[Pair]:
        """The pairs as this road is asked for them."""
        return list(pairs)

    def spent(self, bench: Bench) -> dict[str, Any]:
        """What training it cost, and tuning its vocoder."""
        if not self.arm:
            return {}
        first, *others = (finished(name, bench) for name in self.trained(bench))
        return {"training": {**(first or {}), **({"vocoder": others[0]} if others else {})}}


def random_cluit_mel(preset: str) -> Converter:
    """A preset's network as it begins, with the released vocoder."""
    from vocoders import load_vocoder
    from w2w.baselines.cluit_mel.network import CluitMelNetwork
    from w2w.baselines.cluit_mel.presets import PRESETS
    from w2w.baselines.two_stage import TwoStage

    torch.manual_seed(0)
    network: Any = CluitMelNetwork(PRESETS[preset].network).eval().fold()
    return Converter(TwoStage(network, load_vocoder("released")))


ROADS: dict[str, Road] = {
    "w2w": Road(label="wave-to-wave", arm="w2w"),
    "cluit_mel": Road(label="CLUIT-mel, HiFi-GAN V2", arm="cluit_mel", vocoder="released", notes=(LENT,)),
    "cluit_mel_tuned": Road(
        label="CLUIT-mel, HiFi-GAN V2 tuned to it",
        arm="cluit_mel",
        vocoder="cluit_mel_tuned",
        notes=(LENT, TUNED),
    ),
    "cluit_mel_published": Road(
        label="CLUIT-mel at its published size, HiFi-GAN V2",
        notes=(RANDOM,),
        untrained=partial(random_cluit_mel, "bank_norm_label"),
    ),
    "cluit_mel_causal": Road(
        label="CLUIT-mel, causal, HiFi-GAN V2",
        notes=(RANDOM,),
        untrained=partial(random_cluit_mel, "causal_small"),
    ),
    "released": Road(label="wave-to-wave, released", notes=(LONGER,)),
}
