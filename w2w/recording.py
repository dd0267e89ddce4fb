"""Analysis of recordings before conversion: audible parts and mean F0; conversion of whole recordings."""

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
"""Shortest clip in seconds that a voice can be taken from."""
LONGEST_S = 60.0
"""Longest part of a clip in seconds that is encoded at once."""
FITTED_S = 30.0
"""Seconds of a clip that a voice is fitted to."""
SILENCE_DB = -85.0
"""dBFS RMS of a clip's loudest tenth of a second, below which the clip counts as silent."""


def check_audible(wave: Wave, sample_rate: int, name: str) -> None:
    if wave.shape[-1] < round(SHORTEST_S * sample_rate):
        seconds = wave.shape[-1] / sample_rate
        raise UserError(
            f"{name} lasts {seconds:.4f} s; a voice needs at least {SHORTEST_S} s, better several seconds"
        )
    if not float(_powers(wave, sample_rate).max()) >= 10 ** (SILENCE_DB / 10):  # NaN is no voice either
        raise UserError(f"{name} is silent; a voice cannot be taken from silence")


def parts(clip: Wave, sample_rate: int) -> list[tuple[Wave, float]]:
    """Split a long clip into equal parts, to bound memory, each with its weight in the clip's voice.

    Weights are proportional to the time above the clip's mean level less 20 dB, so that silence, or a click
    in it, has little or no weight.
    """
    pieces = clip.tensor_split(math.ceil(clip.shape[-1] / (LONGEST_S * sample_rate)), dim=-1)
    floor = 0.01 * clip.square().mean()
    loud = [float((_powers(piece, sample_rate) > floor).sum()) for piece in pieces]
    if not any(loud):
        return [(piece, 1 / len(pieces)) for piece in pieces]
    return [(piece, count / sum(loud)) for piece, count in zip(pieces, loud) if count]


def richest(clip: Wave, sample_rate: int, seconds: float) -> Wave:
    """The segment of a clip, of this many seconds, with most sound above the clip's mean level less 20 dB."""
    if clip.shape[-1] <= round(seconds * sample_rate):
        return clip
    tenths, loud = round(seconds / SHORTEST_S), _powers(clip, sample_rate)[0, 0] > 0.01 * clip.square().mean()
    start = int(loud.float().unfold(-1, tenths, 1).sum(-1).argmax()) * round(SHORTEST_S * sample_rate)
    return clip[..., start : start + round(seconds * sample_rate)]


def _powers(wave: Wave, sample_rate: int) -> Float[Tensor, "1 1 tenths"]:
    """Mean power of each tenth of a second."""
    tenth = round(SHORTEST_S * sample_rate)
    return wave.square().unfold(-1, tenth, tenth).mean(-1)


HEARD_S = 60.0
"""Seconds of a recording, those with most sound, from which its mean log F0 is computed."""
BLOCK_S = 4.0
"""Seconds tracked at once, to bound memory."""
LEAST_FRAMES = 30
"""Minimum number of voiced frames for a known mean log F0."""


@torch.inference_mode()
def mean_log_f0(network: Any, wave: Float[Tensor, "1 1 samples"]) -> float | None:
    """Mean log F0 (log of Hz) of a wave at the network's rate; None if it is unknown or not used."""
    if not isinstance(network, ConverterNetwork):
        return None
    speech = without_hum(richest(wave, network.sample_rate, HEARD_S), network.sample_rate)
    speech = speech.to(network.mean_log_f0.prior.device)
    total, n_voiced = 0.0, 0
    for block in speech.split(round(BLOCK_S * network.sample_rate), dim=-1):
        if block.shape[-1] < network.hop:  # the rest is shorter than a frame
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
    """Convert a whole recording, in pieces that together are as long; ``rate`` (Hz) is that of both.

    The source's mean log F0 is computed if it is not given.
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
