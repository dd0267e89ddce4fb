"""Batches of speech by espeak with time-aligned phonemes, for speech synthesis and phoneme recognition.

The texts and voices are those of a corpus made by ``python -m data.voices``, or generated sentences without
one. They are synthesised again, in memory, because espeak reports phoneme times only during synthesis.

The conditioning follows the linguistic features of van den Oord et al. (2016), section 3.2, as far as espeak
provides them: each frame's phoneme and its two neighbours, the position within the phoneme, the phoneme's
duration, and the pitch.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from data.batches import Address
from data.manifest import contents_of_rows
from data.rows import split_rows
from data.synthetic.espeak import Phoneme
from data.synthetic.sentences import sentences
from data.voices import VOICES, Voice, speak
from engine.config import free
from engine.contents import Contents
from engine.user_error import UserError, at_least, within

PAUSE = ""
SYMBOLS: tuple[str, ...] = tuple(
    "|p b t d k ɡ ʔ tʃ dʒ f v θ ð s z ʃ ʒ h m n ŋ l ɹ j w ɾ əl n̩|"
    "ɪ i iː ᵻ ɛ æ a ɐ ə ʌ ɚ ɜː ɒ ɔ ɔː ɑː ʊ u uː eɪ aɪ ɔɪ aʊ oʊ əʊ oː|"
    "iə eə ʊə aɪə aɪɚ ɪɹ ɛɹ ʊɹ ɔːɹ oːɹ ɑːɹ iːɹ".replace("|", " ").split(" ")
)
"""Phonemes of espeak's English voices, the pause first; one more class stands for all other sounds."""
N_PHONEMES = len(SYMBOLS) + 1
_INDEX = {symbol: index for index, symbol in enumerate(SYMBOLS)}
N_NUMBERS = 5
"""Numeric features of a frame: position from the start and to the end, duration, voicing, log-F0."""
USUAL_HZ = 150.0
"""F0 at which the pitch feature is 0, Hz."""


@dataclass(frozen=True, kw_only=True)
class FeatureConfig:
    """Frame rate of the linguistic features."""

    sample_rate: int = 16_000
    """Sample rate, Hz."""
    hop: int = 80
    """Samples between frames; 5 ms, as published."""

    def __post_init__(self) -> None:
        at_least(1, self, "sample_rate", "hop")

    @property
    def channels(self) -> int:
        return 3 * N_PHONEMES + N_NUMBERS


def frame_phonemes(phonemes: Sequence[Phoneme], n_frames: int, frame_rate: float) -> Int[Tensor, "frames"]:
    """Index into ``phonemes`` of the phoneme at the middle of each frame; −1 outside all phonemes."""
    middles = (torch.arange(n_frames) + 0.5) / frame_rate
    index = torch.full((n_frames,), -1)
    for number, phoneme in enumerate(phonemes):
        index[(middles >= phoneme.start) & (middles < phoneme.end)] = number
    return index


def phoneme_classes(phonemes: Sequence[Phoneme], n_frames: int, frame_rate: float) -> Int[Tensor, "frames"]:
    """Phoneme class of each frame, 0 … ``N_PHONEMES`` − 1: a recogniser's target."""
    return _classes(phonemes)[frame_phonemes(phonemes, n_frames, frame_rate)]


def features(
    phonemes: Sequence[Phoneme], f0: Float[Tensor, "frames"], config: FeatureConfig
) -> Float[Tensor, "channels frames"]:
    """Linguistic features of frames; ``f0`` in Hz, 0 where unvoiced."""
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


def f0_pyworld(
    wave: Float[Tensor, "batch 1 samples"],
    sample_rate: int,
    hop_ms: float = 10.0,
) -> Float[Tensor, "batch frames"]:
    """F0 in Hz, 60 to 600, by WORLD (DIO and StoneMask), 0 where unvoiced; frame t is at t · ``hop_ms``."""
    try:
        import pyworld
    except ImportError:
        raise UserError("F0 by WORLD needs pyworld: pip install 'timbre[eval]'") from None
    tracks = []
    for row in wave.detach().squeeze(1).double().cpu().numpy():
        f0, times = pyworld.dio(row, sample_rate, f0_floor=60.0, f0_ceil=600.0, frame_period=hop_ms)
        tracks.append(pyworld.stonemask(row, f0, times, sample_rate))
    return torch.from_numpy(np.stack(tracks).astype(np.float32)).to(wave.device)


def frame_pitch(wave: Float[Tensor, "1 1 samples"], config: FeatureConfig) -> Float[Tensor, "frames"]:
    """F0 at the middle of each whole frame of a wave, Hz, 0 where unvoiced."""
    n_frames = wave.shape[-1] // config.hop
    hop_ms = 1_000 * config.hop / config.sample_rate
    track = f0_pyworld(wave, config.sample_rate, hop_ms / 2)[0, 1::2]  # the frames' middles
    return F.pad(track, (0, max(0, n_frames - len(track))))[:n_frames]


def speech_features(
    wave: Float[Tensor, "1 1 samples"], phonemes: Sequence[Phoneme], config: FeatureConfig
) -> Float[Tensor, "1 channels frames"]:
    """Linguistic features of a recording with time-aligned phonemes."""
    if not phonemes or not math.isfinite(phonemes[-1].end):
        raise UserError("there is nothing to say: the text contains no word that espeak can pronounce")
    return features(phonemes, frame_pitch(wave, config), config)[None]


def _classes(phonemes: Sequence[Phoneme]) -> Int[Tensor, "phonemes_and_pause"]:
    """Class of each phoneme, followed by the pause's class, so that index −1 is a pause."""
    other = len(SYMBOLS)
    return torch.tensor([*(_INDEX.get(phoneme.symbol, other) for phoneme in phonemes), _INDEX[PAUSE]])


def _moved(now: Int[Tensor, "frames"], by: int, n_phonemes: int) -> Int[Tensor, "frames"]:
    there = now + by
    return torch.where((now >= 0) & (there < n_phonemes), there, -1)


VOICE = {voice.name: voice for voice in VOICES}


@dataclass(frozen=True, kw_only=True)
class SpokenConfig:
    """Training data: voices, texts, features and crops."""

    path: str = free("")
    """Corpus made by ``python -m data.voices``; empty: ``n_sentences`` generated for each of ``n_voices``."""
    split: str = "train"
    """Split of the corpus; without a path: train or validation."""
    n_voices: int = 4
    """Voices of espeak, without a corpus."""
    n_sentences: int = 40
    """Sentences per voice, without a corpus; a tenth as many are generated for validation."""
    features: FeatureConfig = field(default_factory=FeatureConfig)
    """Sample rate and frames of the linguistic features."""
    crop_samples: int = 9_600
    """Crop length, in samples; a multiple of ``features.hop``."""
    batch: int = 8
    """Crops per micro-batch."""

    def __post_init__(self) -> None:
        if self.crop_samples % self.features.hop or self.crop_samples < self.features.hop:
            raise UserError(
                f"crop_samples={self.crop_samples} must be a whole number of frames of {self.features.hop}"
            )
        within(f"[1, {len(VOICES)}]", self, "n_voices")
        at_least(1, self, "n_sentences", "batch")

    def contents(self) -> dict[str, Contents | None]:
        """Speakers and texts of the corpus, if there is one, to detect changes when a run is resumed."""
        rows = split_rows(self.path, self.split) if self.path else []
        return {"path": contents_of_rows(rows, [row.speaker for row in rows], texts=True)}


class Spoken(NamedTuple):
    wave: Float[Tensor, "batch 1 samples"]
    local: Float[Tensor, "batch channels frames"]
    """Linguistic features of each frame."""
    phonemes: Int[Tensor, "batch frames"]
    """Phoneme class of each frame."""
    speaker: Int[Tensor, "batch"]
    """Index into ``SpokenCrops.speakers``; −1 for voices not in the training split."""


class SpokenCrops(Dataset[Spoken]):
    """Batches by address; all utterances are held in memory with their features."""

    def __init__(self, config: SpokenConfig, *, progress: bool = True) -> None:
        self.config = config
        lines = list(_lines(config))
        self.speakers = speakers_of(config)
        """Names of the voices, by label."""
        bar = tqdm(lines, desc="speaking", unit="sentence", delay=1.0, disable=not progress)
        self.utterances = [self._utterance(voice, text) for voice, text in bar]

    def __getitem__(self, address: Address) -> Spoken:
        rng = np.random.default_rng(list(address))
        crops = [self._crop(rng) for _ in range(self.config.batch)]
        return Spoken(*(torch.cat(parts) for parts in zip(*crops)))

    def _utterance(self, voice: Voice, text: str) -> Spoken:
        config = self.config.features
        wave, phonemes = speak(text, voice, config.sample_rate)
        label = self.speakers.index(voice.name) if voice.name in self.speakers else -1
        return utterance(wave, phonemes, label, config, self.config.crop_samples)

    def _crop(self, rng: np.random.Generator) -> Spoken:
        whole = self.utterances[int(rng.integers(len(self.utterances)))]
        hop = self.config.features.hop
        n_frames = self.config.crop_samples // hop
        start = int(rng.integers(whole.local.shape[-1] - n_frames + 1))
        return Spoken(
            wave=whole.wave[..., start * hop : (start + n_frames) * hop],
            local=whole.local[..., start : start + n_frames],
            phonemes=whole.phonemes[..., start : start + n_frames],
            speaker=whole.speaker,
        )


def utterance(
    wave: Float[Tensor, "1 1 samples"],
    phonemes: list[Phoneme],
    speaker: int,
    config: FeatureConfig,
    least_samples: int = 0,
) -> Spoken:
    """One recording with its features, padded with silence to whole frames and to ``least_samples``."""
    n_samples = max(-(-wave.shape[-1] // config.hop) * config.hop, least_samples)
    wave = torch.nn.functional.pad(wave, (0, n_samples - wave.shape[-1]))
    local = speech_features(wave, phonemes, config)
    classes = phoneme_classes(phonemes, local.shape[-1], config.sample_rate / config.hop)
    return Spoken(wave, local, classes[None], torch.tensor([speaker]))


def speakers_of(config: SpokenConfig) -> list[str]:
    """Names of the voices in the training split, by label."""
    return sorted({voice.name for voice, _ in _lines(replace(config, split="train"))})


def _lines(config: SpokenConfig) -> Iterator[tuple[Voice, str]]:
    if not config.path:
        wanted = config.split == "validation"
        n_sentences = -(-config.n_sentences // 10) if wanted else config.n_sentences
        texts = (text for number, text in enumerate(sentences(0)) if (number % 10 == 8) == wanted)
        for _ in range(n_sentences):
            for voice in VOICES[: config.n_voices]:
                yield voice, next(texts)
        return
    for row in split_rows(config.path, config.split):
        if row.speaker not in VOICE or not row.text:
            raise UserError(
                f"{config.path}: {row.path.name} is not by a voice of espeak with its text, so its phoneme "
                "times are unknown; make a corpus with python -m data.voices"
            )
        yield VOICE[row.speaker], row.text
