"""Recordings before they are converted: audible parts, the mean F0 of the voice; and those needed whole."""

import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from data.audio.checking import check_wave
from data.audio.hum import without_hum
from data.audio.resampling import resample, resampled_pieces
from engine.user_error import UserError
from pretrain.pitch.network import tracked
from w2w.networks.network import ConverterNetwork
from w2w.networks.wave_network import WaveNetwork, check_voice

Wave = Float[Tensor, "1 1 _"]

SHORTEST_S = 0.1
"""Seconds of speech without which there is no voice."""
LONGEST_S = 60.0
"""Seconds of a clip that are heard at once."""
FITTED_S = 30.0
"""Seconds of a clip that a voice is fitted to."""
SILENCE_DB = -85.0
"""dBFS, RMS of a clip's loudest tenth of a second: below it, a clip is silent."""


def check_audible(wave: Wave, sample_rate: int, name: str) -> None:
    if wave.shape[-1] < round(SHORTEST_S * sample_rate):
        seconds = wave.shape[-1] / sample_rate
        raise UserError(
            f"{name} lasts {seconds:.4f} s; a voice needs at least {SHORTEST_S} s, better some seconds"
        )
    if not audible(wave, sample_rate):
        raise UserError(f"{name} is silent; a voice cannot be taken from silence")


def audible(wave: Wave, sample_rate: int) -> bool:
    return float(_powers(wave, sample_rate).max()) >= 10 ** (SILENCE_DB / 10)


def parts(clip: Wave, sample_rate: int) -> list[tuple[Wave, float]]:
    """A long clip as several of one length, to bound memory, with the share of each in the clip's voice.

    They share by their time at the clip's mean level less 20 dB or louder: silence, or a click in it, counts
    for nothing or little.
    """
    pieces = clip.tensor_split(math.ceil(clip.shape[-1] / (LONGEST_S * sample_rate)), dim=-1)
    floor = 0.01 * clip.square().mean()
    loud = [float((_powers(piece, sample_rate) > floor).sum()) for piece in pieces]
    if not any(loud):
        return [(piece, 1 / len(pieces)) for piece in pieces]
    return [(piece, count / sum(loud)) for piece, count in zip(pieces, loud) if count]


def richest(clip: Wave, sample_rate: int, seconds: float) -> Wave:
    """The stretch of a clip, of so many seconds, that holds most sound at its mean level less 20 dB."""
    if clip.shape[-1] <= round(seconds * sample_rate):
        return clip
    tenths, loud = round(seconds / SHORTEST_S), _powers(clip, sample_rate)[0, 0] > 0.01 * clip.square().mean()
    start = int(loud.float().unfold(-1, tenths, 1).sum(-1).argmax()) * round(SHORTEST_S * sample_rate)
    return clip[..., start : start + round(seconds * sample_rate)]


def _powers(wave: Wave, sample_rate: int) -> Float[Tensor, "1 1 tenths"]:
    """Of each tenth of a second."""
    tenth = round(SHORTEST_S * sample_rate)
    return wave.square().unfold(-1, tenth, tenth).mean(-1)


HEARD_S = 60.0
"""Seconds of a recording, those with most sound, that its mean is taken from."""
BLOCK_S = 4.0
"""Seconds tracked at once, lest memory grow."""
LEAST_FRAMES = 30
"""Voiced ones, in less of which nothing is known."""


@torch.inference_mode()
def mean_log_f0(network: Any, wave: Float[Tensor, "1 1 samples"]) -> float | None:
    """Mean log F0 (of Hz) of a wave at the network's rate; None where it is not known, or not used."""
    if not isinstance(network, ConverterNetwork):
        return None
    speech = without_hum(richest(wave, network.sample_rate, HEARD_S), network.sample_rate)
    speech = speech.to(network.mean_log_f0.prior.device)
    total, n_voiced = 0.0, 0
    for block in speech.split(round(BLOCK_S * network.sample_rate), dim=-1):
        if block.shape[-1] < network.hop:  # a rest too short for a frame
            break
        pitch = tracked(network.pitch, block, network.config.pitch_ahead)
        voiced = int((pitch.voicing > 0.5).sum())
        total += voiced * float(network.style.mean_log_f0(block, pitch))
        n_voiced += voiced
    return total / n_voiced if n_voiced >= LEAST_FRAMES else None


def convert_whole(
    network: WaveNetwork,
    source: Wave,
    voice: Float[Tensor, "1 voice"],
    semitones: float,
    rate: int,
    source_log_f0: float | None,
) -> Iterator[Wave]:
    """Yield the result in pieces, together as long as the source; ``rate`` in Hz is that of both.

    The source's mean log F0 is taken from it where it is not given.
    """
    check_wave(source, "the source")
    check_voice(network, voice, semitones)
    device = next(network.parameters()).device
    encoded, voice = resample(source, rate, network.sample_rate).to(device), voice.to(device)
    if isinstance(network, ConverterNetwork):
        known = mean_log_f0(network, encoded) if source_log_f0 is None else source_log_f0
        pieces: Iterable[Wave] = network.pieces(encoded, voice, semitones, known)
    else:
        pieces = [network(encoded, voice, semitones)]
    yield from resampled_pieces(pieces, network.sample_rate, rate, source.shape[-1])
