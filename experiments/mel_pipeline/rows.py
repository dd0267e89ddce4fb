"""The rows of the comparison: which trained arm each takes, what makes its waves, and what to know of it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from experiments.mel_pipeline.trainers import Bench
from experiments.mel_pipeline.variants import finished
from vocoders import load_vocoder
from vocoders.loading import RELEASED as VOCODER
from w2w.converter import Converter
from w2w.weights import RELEASED

LONGER = "trained longer, in stages: see its card; not part of the comparison at equal time"
LENT = "the released vocoder's own training is not in the time"
TUNED = "the second number: tuning the vocoder to the converter's mels, beyond the equal time"
RANDOM = "with random weights: for its speed and latency alone"
LABELS = (
    "an unseen voice is the labels of training speakers that its discriminator hears in the references, which"
    " vote; the discriminator's parameters are counted"
)
LIMIT = "the source's own mel: what the vocoder alone does to it"

Wave = Float[Tensor, "1 1 samples"]
Voice = Float[Tensor, "1 dim"]


@dataclass(frozen=True, kw_only=True)
class Road:
    """One way from a source and a voice to a wave."""

    label: str
    arm: str = ""
    """Whose training it takes."""
    vocoder: str = ""
    """What speaks the mels of a road of two stages: an arm's vocoder, or a name that vocoders know."""
    notes: tuple[str, ...] = ()
    """Below the table."""
    made: Callable[[], Any] | None = None
    """Makes the converter, where it takes no arm."""
    given: Path | None = None
    """The folder of weights that this needs, which comes with the package."""
    scored: bool = True
    """Whether its outputs are judged."""
    timed: bool = True
    """Whether its speed is measured."""

    def there(self, bench: Bench) -> bool:
        """Whether what it needs is there."""
        if self.arm:
            return all(finished(name, bench) is not None for name in self.arms(bench))
        return self.given is None or (self.given / "model.safetensors").is_file()

    def arms(self, bench: Bench) -> list[str]:
        """The arms it needs."""
        return [name for name in (self.arm, self.vocoder) if name in bench.presets]

    def weights(self, bench: Bench) -> list[Path]:
        """The files that outputs must be newer than."""
        folders = [bench.folder(name) / "export" for name in self.arms(bench)]
        return [folder / "model.safetensors" for folder in (*folders, self.given) if folder]

    def open(self, bench: Bench) -> Any:
        """The converter, ready."""
        if self.made:
            return self.made()
        export = bench.folder(self.arm) / "export"
        if not self.vocoder:
            return Converter.from_pretrained(export)
        own = self.vocoder in bench.presets
        vocoder = bench.folder(self.vocoder) / "export" if own else self.vocoder
        return Converter.from_pretrained(export, vocoder=str(vocoder))

    def spent(self, bench: Bench) -> dict[str, Any]:
        """What training it cost, and tuning its vocoder."""
        if not self.arm:
            return {}
        first, *others = (finished(name, bench) for name in self.arms(bench))
        return {"training": {**(first or {}), **({"vocoder": others[0]} if others else {})}}


def random_cluit_mel(preset: str) -> Converter:
    """A preset's network as it begins, with the released vocoder."""
    from w2w.baselines.cluit_mel.network import CluitMelNetwork
    from w2w.baselines.cluit_mel.presets import PRESETS
    from w2w.baselines.two_stage import TwoStage

    torch.manual_seed(0)
    network: Any = CluitMelNetwork(PRESETS[preset].network).eval().fold()
    return Converter(TwoStage(network, load_vocoder("released")))


class Copied:
    """A converter that leaves the voice as it is and only lets the vocoder speak."""

    def __init__(self) -> None:
        self.vocoder = load_vocoder("released")
        self.sample_rate = self.vocoder.sample_rate

    def embed(self, wave: Wave) -> Voice:
        """No voice is needed."""
        return wave.new_zeros(1, 1)

    def convert(self, wave: Wave, voice: Voice) -> Float[Tensor, "1 1 _"]:
        """The wave out of its own mel."""
        return self.vocoder(self.vocoder.log_mel(wave))


ROADS: dict[str, Road] = {
    "w2w": Road(label="wave-to-wave", arm="w2w"),
    "cluit_mel": Road(label="CLUIT-mel, HiFi-GAN V2", arm="cluit_mel", vocoder="released", notes=(LENT,)),
    "cluit_mel_tuned": Road(
        label="CLUIT-mel, HiFi-GAN V2 tuned to it",
        arm="cluit_mel",
        vocoder="cluit_mel_tuned",
        notes=(LENT, TUNED),
    ),
    "cluit_mel_phase": Road(label="CLUIT-mel, Griffin-Lim", arm="cluit_mel", vocoder="griffin_lim"),
    "stargan_phase": Road(
        label="StarGAN, phase retrieval", arm="stargan", vocoder="griffin_lim", notes=(LABELS,)
    ),
    "stargan": Road(label="StarGAN, HiFi-GAN V2", arm="stargan", vocoder="released", notes=(LENT, LABELS)),
    "cluit_mel_published": Road(
        label="CLUIT-mel at its published size, HiFi-GAN V2",
        made=partial(random_cluit_mel, "bank_norm_label"),
        given=VOCODER,
        notes=(RANDOM,),
        scored=False,
    ),
    "cluit_mel_causal": Road(
        label="CLUIT-mel, causal, HiFi-GAN V2",
        made=partial(random_cluit_mel, "causal_small"),
        given=VOCODER,
        notes=(RANDOM,),
        scored=False,
    ),
    "released": Road(
        label="wave-to-wave, released", made=Converter.from_pretrained, given=RELEASED, notes=(LONGER,)
    ),
    "copied": Road(label="source by HiFi-GAN V2", made=Copied, given=VOCODER, notes=(LIMIT,), timed=False),
}
