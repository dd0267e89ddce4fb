"""Conversion by networks that need the whole of a recording before they say a word."""

from collections.abc import Iterable, Iterator

from jaxtyping import Float
from torch import Tensor

from data.audio.checking import check_wave
from data.audio.resampling import resample, resampled_pieces
from w2w.networks.network import ConverterNetwork
from w2w.networks.wave_network import WaveNetwork, check_voice
from w2w.recording import mean_log_f0

Wave = Float[Tensor, "1 1 samples"]


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
