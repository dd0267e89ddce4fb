"""What a WaveNet is told to say: phonemes with their durations, and log-F0, frame by frame.

These are the linguistic features of van den Oord et al. (2016), section 3.2, as far as espeak gives them. A
frame knows its phoneme and the neighbours on either side, where in the phoneme it stands, how long that
lasts, and the pitch.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from data.frontends import f0_pyworld
from data.synthetic.espeak import Phoneme
from engine.user_error import UserError

PAUSE = ""
SYMBOLS: tuple[str, ...] = tuple(
    "|p b t d k ɡ ʔ tʃ dʒ f v θ ð s z ʃ ʒ h m n ŋ l ɹ j w ɾ əl n̩|"
    "ɪ i iː ᵻ ɛ æ a ɐ ə ʌ ɚ ɜː ɒ ɔ ɔː ɑː ʊ u uː eɪ aɪ ɔɪ aʊ oʊ əʊ oː|"
    "iə eə ʊə aɪə aɪɚ ɪɹ ɛɹ ʊɹ ɔːɹ oːɹ ɑːɹ iːɹ".replace("|", " ").split(" ")
)
"""What espeak's English voices say, a pause first; the class after the last is any other sound."""
N_PHONEMES = len(SYMBOLS) + 1
_INDEX = {symbol: index for index, symbol in enumerate(SYMBOLS)}
N_NUMBERS = 5
"""Features of a frame that are numbers: place twice, duration, voicing, log-F0."""
USUAL_HZ = 150.0
"""The pitch whose feature is 0."""


@dataclass(frozen=True, kw_only=True)
class FeatureConfig:
    """The frames of the features."""

    sample_rate: int = 16_000
    """Hz."""
    hop: int = 80
    """Samples between frames; 5 ms, as published."""

    def __post_init__(self) -> None:
        if self.sample_rate < 1 or self.hop < 1:
            raise UserError(f"sample_rate={self.sample_rate} and hop={self.hop} must be at least 1")

    @property
    def channels(self) -> int:
        """Features of a frame."""
        return 3 * N_PHONEMES + N_NUMBERS


def frame_phonemes(phonemes: Sequence[Phoneme], n_frames: int, frame_rate: float) -> Int[Tensor, "frames"]:
    """Index of the phoneme spoken in the middle of each frame, counted in ``phonemes``; −1 outside all."""
    middles = (torch.arange(n_frames) + 0.5) / frame_rate
    index = torch.full((n_frames,), -1)
    for number, phoneme in enumerate(phonemes):
        index[(middles >= phoneme.start) & (middles < phoneme.end)] = number
    return index


def phoneme_classes(phonemes: Sequence[Phoneme], n_frames: int, frame_rate: float) -> Int[Tensor, "frames"]:
    """Class of each frame, 0 … ``N_PHONEMES`` − 1: what a recogniser is to say."""
    classes = _classes(phonemes)
    return classes[frame_phonemes(phonemes, n_frames, frame_rate)]


def features(
    phonemes: Sequence[Phoneme], f0: Float[Tensor, "frames"], config: FeatureConfig
) -> Float[Tensor, "channels frames"]:
    """The features of frames whose pitch is ``f0``, Hz, 0 where unvoiced."""
    frame_rate, n_frames = config.sample_rate / config.hop, len(f0)
    now = frame_phonemes(phonemes, n_frames, frame_rate)
    classes = _classes(phonemes)
    around = [F.one_hot(classes[_moved(now, by, len(phonemes))], N_PHONEMES).T for by in (-1, 0, 1)]
    starts, ends = (torch.tensor([*times, 0.0]) for times in zip(*[(p.start, p.end) for p in phonemes]))
    seconds = (ends - starts)[now]
    place = ((torch.arange(n_frames) + 0.5) / frame_rate - starts[now]) / seconds.clamp_min(1e-3)
    inside = (now >= 0).float()
    voiced = (f0 > 0).float()
    pitch = (f0.clamp_min(1.0) / USUAL_HZ).log() * voiced * 2
    numbers = [place * inside, (1 - place) * inside, (seconds * 10).log1p() * inside, voiced, pitch]
    return torch.cat([*around, torch.stack(numbers)]).float()


def frame_pitch(wave: Float[Tensor, "1 1 samples"], config: FeatureConfig) -> Float[Tensor, "frames"]:
    """F0 in the middle of each whole frame of a wave, Hz, 0 where unvoiced."""
    n_frames = wave.shape[-1] // config.hop
    hop_ms = 1_000 * config.hop / config.sample_rate
    track = f0_pyworld(wave, config.sample_rate, hop_ms=hop_ms / 2)[0, 1::2]  # odd halves are middles
    return F.pad(track, (0, max(0, n_frames - len(track))))[:n_frames]


def speech_features(
    wave: Float[Tensor, "1 1 samples"], phonemes: Sequence[Phoneme], config: FeatureConfig
) -> Float[Tensor, "1 channels frames"]:
    """The features of a recording whose phonemes are known."""
    if not phonemes or not math.isfinite(phonemes[-1].end):
        raise UserError("there is nothing to say: the text holds no word that espeak can speak")
    return features(phonemes, frame_pitch(wave, config), config)[None]


def _classes(phonemes: Sequence[Phoneme]) -> Int[Tensor, "phonemes_and_pause"]:
    """Classes by number; the last, reached by −1, is the pause around everything."""
    other = len(SYMBOLS)
    return torch.tensor([*(_INDEX.get(phoneme.symbol, other) for phoneme in phonemes), _INDEX[PAUSE]])


def _moved(now: Int[Tensor, "frames"], by: int, n_phonemes: int) -> Int[Tensor, "frames"]:
    there = now + by
    return torch.where((now >= 0) & (there < n_phonemes), there, -1)
