"""Systems of the comparison, trained here or released, and their speeds."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from benchmarks.table import in_turns
from experiments.study import Study
from vocoders import load_vocoder
from vocoders.loading import released_folder
from w2w.baselines.cluit_mel.network import CluitMelNetwork
from w2w.baselines.cluit_mel.presets import PRESETS as CLUIT_MEL
from w2w.baselines.stargan.converter import StarGANNetwork
from w2w.baselines.stargan.spectrogram import at_full_scale
from w2w.baselines.two_stage import TwoStage
from w2w.converter import Converter
from w2w.weights import RELEASED

STUDENT = "initialised from the released student, the training of which is not included"
LONGER = "trained longer, see its card; not part of the comparison at equal time"
LENT = "the training of the released vocoder is not included"
TUNED = "second number: fine-tuning the vocoder on the converter's mels, beyond the equal time"
RANDOM = "random weights, only for speed and latency"
LABELS = (
    "an unseen voice is a vote over training speakers recognised by the discriminator in the references; the"
    " discriminator's parameters are included"
)
LIMIT = "the source's own mel: effect of the vocoder only"

Wave = Float[Tensor, "1 1 samples"]
Voice = Float[Tensor, "1 dim"]


@dataclass(frozen=True, kw_only=True)
class System:
    """A system that converts a source to a voice."""

    label: str
    variants: tuple[str, ...] = ()
    """Variants trained here: the converter and, if trained, its vocoder."""
    vocoder: str = ""
    """Vocoder to use if no variant trains one."""
    notes: tuple[str, ...] = ()
    """Notes below the table."""
    load: Callable[[], Any] | None = None
    """Loads the converter if nothing trained here is used."""
    weights: Path | None = None
    """Released folder that the system needs."""
    scored: bool = True
    timed: bool = True

    def is_available(self, study: Study) -> bool:
        released = self.weights is None or (self.weights / "model.safetensors").is_file()
        return released and all((study.folder(name) / "cost.json").is_file() for name in self.variants)

    def files(self, study: Study) -> Sequence[Path]:
        """Weights files; older outputs are generated again."""
        folders = [study.folder(name) / "export" for name in self.variants]
        return [folder / "model.safetensors" for folder in (*folders, self.weights) if folder]

    def open(self, study: Study) -> Any:
        if self.load:
            return self.load()
        exports = [str(study.folder(name) / "export") for name in self.variants]
        vocoder = exports[1] if len(exports) > 1 else self.vocoder
        return Converter.from_pretrained(exports[0], vocoder=vocoder or None)


def random_cluit_mel(preset: str) -> Converter:
    """A preset's network with random weights, and the released vocoder."""
    torch.manual_seed(0)
    network: Any = CluitMelNetwork(CLUIT_MEL[preset].network).eval().fold()
    return Converter(TwoStage(network, load_vocoder("released_hifigan")))


class Vocoded:
    """A converter that does not change the voice: only the vocoder."""

    def __init__(self) -> None:
        self.vocoder = load_vocoder("released_hifigan")
        self.sample_rate = self.vocoder.sample_rate

    def embed(self, wave: Wave) -> Voice:
        return wave.new_zeros(1, 1)

    def convert(self, wave: Wave, voice: Voice) -> Float[Tensor, "1 1 _"]:
        return self.vocoder(self.vocoder.log_mel(wave))


W2W = "w2w"
SYSTEMS: dict[str, System] = {
    W2W: System(label="wave-to-wave", variants=("w2w",), notes=(STUDENT,)),
    "cluit_mel": System(
        label="CLUIT-mel, HiFi-GAN V2", variants=("cluit_mel",), vocoder="released_hifigan", notes=(LENT,)
    ),
    "cluit_mel_tuned": System(
        label="CLUIT-mel, HiFi-GAN V2 tuned to it",
        variants=("cluit_mel", "cluit_mel_tuned"),
        notes=(LENT, TUNED),
    ),
    "cluit_mel_phase": System(label="CLUIT-mel, Griffin-Lim", variants=("cluit_mel",), vocoder="griffin_lim"),
    "stargan_phase": System(
        label="StarGAN, phase retrieval", variants=("stargan",), vocoder="griffin_lim", notes=(LABELS,)
    ),
    "stargan": System(
        label="StarGAN, HiFi-GAN V2", variants=("stargan",), vocoder="released_hifigan", notes=(LENT, LABELS)
    ),
    "cluit_mel_published": System(
        label="CLUIT-mel at its published size, HiFi-GAN V2",
        load=partial(random_cluit_mel, "bank_norm_label"),
        weights=released_folder("released_hifigan"),
        notes=(RANDOM,),
        scored=False,
    ),
    "cluit_mel_causal": System(
        label="CLUIT-mel, causal, HiFi-GAN V2",
        load=partial(random_cluit_mel, "causal_small"),
        weights=released_folder("released_hifigan"),
        notes=(RANDOM,),
        scored=False,
    ),
    "released": System(
        label="wave-to-wave, released", load=Converter.from_pretrained, weights=RELEASED, notes=(LONGER,)
    ),
    "vocoded": System(
        label="source by HiFi-GAN V2",
        load=Vocoded,
        weights=released_folder("released_hifigan"),
        notes=(LIMIT,),
        timed=False,
    ),
}


Call = Callable[[], Any]


def speeds(converters: Mapping[str, Any], speech: Wave, repeats: int) -> dict[str, dict[str, Any]]:
    """Measure real-time factors, parameters and latencies of converters, by name.

    Timed calls alternate, so that a slow phase of the machine affects all. Times are processor seconds, as
    other programs may run; on one thread of an idle machine they equal wall time.
    """
    seconds = speech.shape[-1] / next(iter(converters.values())).sample_rate
    calls: dict[tuple[str, str], Call] = {}
    for name, converter in converters.items():
        voice = converter.embed(speech)
        calls[name, "whole"] = lambda c=converter, v=voice: c.convert(speech, v)
        for part, call in stages(converter.network, speech, voice).items():
            calls[name, part] = call
    with torch.inference_mode():
        took = dict(zip(calls, in_turns(list(calls.values()), repeats)))
    results = {}
    for name, converter in converters.items():
        factors = {part: [s / seconds for s in took[of, part]] for of, part in calls if of == name}
        results[name] = {
            "parameters": parameters(converter.network),
            "latency_ms": latency_ms(converter),
            "rtf": {part: median(values) for part, values in factors.items()},
            "rtf_turns": factors,
        }
    return results


def stages(network: nn.Module, speech: Wave, voice: Float[Tensor, "1 dim"]) -> dict[str, Call]:
    """Calls of the two stages, converter and vocoder; empty for a single-stage converter."""
    match network:
        case TwoStage():
            mel = network.converted_mel(speech, voice)
            return {
                "converter": lambda: network.converted_mel(speech, voice),
                "vocoder": lambda: network.vocoder(mel),
            }
        case StarGANNetwork():
            source, make = at_full_scale(speech), network.mel_network.converted
            spectrograms = list(make(source, voice))
            return {
                "converter": lambda: list(make(source, voice)),
                "vocoder": lambda: list(network.invert(spectrograms, speech.shape[-1])),
            }
    return {}


def parameters(network: nn.Module) -> dict[str, int]:
    vocoder = getattr(network, "vocoder", None)
    in_vocoder = sum(p.numel() for p in vocoder.parameters()) if isinstance(vocoder, nn.Module) else 0
    total = sum(p.numel() for p in network.parameters())
    return {"converter": total - in_vocoder, "vocoder": in_vocoder}


def latency_ms(converter: Any) -> float | None:
    """Latency in milliseconds with the shortest chunks; None if the converter needs whole recordings."""
    network = converter.network
    if not network.streams:
        return None
    hop, rate = network.hop, converter.sample_rate
    noise = torch.zeros(1, 1, rate).uniform_(-0.1, 0.1, generator=torch.Generator().manual_seed(0))
    return converter.stream(converter.embed(noise), chunk_samples=hop).latency_ms
