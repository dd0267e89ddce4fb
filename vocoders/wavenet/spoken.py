"""Batches of espeak's voices whose phonemes are known to the millisecond: for speech from text, and back.

The recordings are those of a corpus that ``python -m data.voices`` made: its voices say its texts again, in
memory, because only then do they tell when each phoneme began. Without a corpus, they say other sentences.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from data.batches import Address, split_rows
from data.manifest import contents_of_rows
from data.synthetic.espeak import Phoneme
from data.synthetic.sentences import sentences
from data.voices import VOICES, Voice, speak
from engine.config import free
from engine.contents import Contents
from engine.user_error import UserError
from vocoders.wavenet.features import FeatureConfig, phoneme_classes, speech_features

VOICE = {voice.name: voice for voice in VOICES}


@dataclass(frozen=True, kw_only=True)
class SpokenConfig:
    """Who says what, and how it is cut."""

    path: str = free("")
    """A corpus of ``python -m data.voices``; empty: ``n_sentences`` are made up for each of ``n_voices``."""
    split: str = "train"
    """Rows of this split only; without a path: train or validation."""
    n_voices: int = 4
    """How many of espeak's voices speak where no corpus is given."""
    n_sentences: int = 40
    """Of each voice, where no corpus is given; a tenth as many are made for validation."""
    features: FeatureConfig = field(default_factory=FeatureConfig)
    """Rate and frames."""
    crop_samples: int = 9_600
    """Length of a crop, in whole frames."""
    batch: int = 8
    """Crops in a micro-batch."""

    def __post_init__(self) -> None:
        if self.crop_samples % self.features.hop or self.crop_samples < self.features.hop:
            raise UserError(
                f"crop_samples={self.crop_samples} must be a whole number of frames of {self.features.hop}"
            )
        if not 1 <= self.n_voices <= len(VOICES):
            raise UserError(f"n_voices={self.n_voices} must lie between 1 and {len(VOICES)}")
        if self.n_sentences < 1 or self.batch < 1:
            raise UserError(f"n_sentences={self.n_sentences} and batch={self.batch} must be at least 1")

    def contents(self) -> dict[str, Contents | None]:
        """The corpus, if there is one: who says what."""
        rows = split_rows(self.path, self.split) if self.path else []
        return {"path": contents_of_rows(rows, [row.speaker for row in rows], texts=True)}


class Spoken(NamedTuple):
    """Crops of speech and what is said in them."""

    wave: Float[Tensor, "batch 1 samples"]
    local: Float[Tensor, "batch channels frames"]
    """``features`` of each frame."""
    phonemes: Int[Tensor, "batch frames"]
    """Class of each frame."""
    speaker: Int[Tensor, "batch"]
    """Index into ``SpokenCrops.speakers``; −1: a voice not in training."""


class SpokenCrops(Dataset[Spoken]):
    """Batches by address, every utterance held in memory with its features."""

    def __init__(self, config: SpokenConfig, *, progress: bool = True) -> None:
        self.config = config
        lines = list(_lines(config))
        self.speakers = speakers_of(config)
        """Names, by label."""
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
    at_least: int = 0,
) -> Spoken:
    """One recording in whole frames, followed by silence where it is shorter than ``at_least`` samples."""
    n_samples = max(-(-wave.shape[-1] // config.hop) * config.hop, at_least)
    wave = torch.nn.functional.pad(wave, (0, n_samples - wave.shape[-1]))
    local = speech_features(wave, phonemes, config)
    classes = phoneme_classes(phonemes, local.shape[-1], config.sample_rate / config.hop)
    return Spoken(wave, local, classes[None], torch.tensor([speaker]))


def speakers_of(config: SpokenConfig) -> list[str]:
    """Names of the voices, by label; those of the training split, which alone are learned."""
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
                f"{config.path}: {row.path.name} is not by a voice of espeak with its text, so nobody knows "
                "when its phonemes begin; make a corpus with python -m data.voices"
            )
        yield VOICE[row.speaker], row.text
