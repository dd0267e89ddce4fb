"""What a system costs in use: processor time of ten seconds of speech in turns, parameters, latency."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from statistics import median
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from w2w.baselines.stargan.converter import StarGANNetwork
from w2w.baselines.stargan.spectrogram import ToWave, at_full_scale
from w2w.baselines.two_stage import TwoStage

Wave = Float[Tensor, "1 1 samples"]
Call = Callable[[], Any]


def speeds(converters: Mapping[str, Any], speech: Wave, repeats: int) -> dict[str, dict[str, Any]]:
    """Real-time factors, parameters and latencies of converters, by name.

    Whatever is timed takes turns: what slows one turn slows all of it. Processor seconds, since other
    programs may run; on one thread of an idle machine they are the wall's.
    """
    seconds = speech.shape[-1] / next(iter(converters.values())).sample_rate
    calls: dict[tuple[str, str], Call] = {}
    for name, converter in converters.items():
        voice = converter.embed(speech)
        calls[name, "whole"] = lambda c=converter, v=voice: c.convert(speech, v)
        for part, call in stages(converter.network, speech, voice).items():
            calls[name, part] = call
    took = in_turns(calls, repeats)
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
    """The converter and what makes waves of its mels, separately; nothing where there is one stage."""
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
                "vocoder": lambda: list(spoken(network, spectrograms, speech.shape[-1])),
            }
    return {}


def spoken(network: StarGANNetwork, spectrograms: Iterable[Tensor], samples: int) -> Iterator[Tensor]:
    """What makes a wave of converted spectrograms: retrieved phases, or a vocoder."""
    if isinstance(network.inversion, ToWave):
        return network.inversion.stream(spectrograms)
    assert network.vocoder is not None
    n_frames = -(-samples // network.vocoder.hop)
    return network.vocoder.stream(network.inversion.stream(spectrograms, n_frames))


@torch.inference_mode()
def in_turns(calls: Mapping[Any, Call], repeats: int) -> dict[Any, list[float]]:
    """Processor seconds of every call in every turn, after one turn that pays for what is made once."""
    took: dict[Any, list[float]] = {name: [] for name in calls}
    for turn in range(repeats + 1):
        for name, call in calls.items():
            began = time.process_time()
            call()
            if turn:
                took[name].append(time.process_time() - began)
    return took


def ratio(ours: list[float], theirs: list[float]) -> float:
    """Ours over theirs: the median over turns."""
    return median(a / b for a, b in zip(ours, theirs, strict=True))


def parameters(network: nn.Module) -> dict[str, int]:
    """How many, of the converter and of its vocoder."""
    vocoder = getattr(network, "vocoder", None)
    in_vocoder = sum(p.numel() for p in vocoder.parameters()) if isinstance(vocoder, nn.Module) else 0
    total = sum(p.numel() for p in network.parameters())
    return {"converter": total - in_vocoder, "vocoder": in_vocoder}


def latency_ms(converter: Any) -> float | None:
    """Milliseconds from a sample to its conversion in the shortest chunks; None where the whole is needed."""
    network = converter.network
    if not network.streams:
        return None
    hop, rate = network.hop, converter.sample_rate
    noise = torch.zeros(1, 1, rate).uniform_(-0.1, 0.1, generator=torch.Generator().manual_seed(0))
    return converter.stream(converter.embed(noise), chunk_samples=hop).latency_ms
