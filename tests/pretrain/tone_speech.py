"""A corpus of synthetic speech in which every letter is a tone."""

from pathlib import Path

import soundfile
import torch

from data.manifest import Row, write_manifest

PITCH = {"s": 5_000.0, "e": 2_500.0, "a": 900.0, "m": 300.0, " ": 1_500.0}
IPA = {"s": "s", "e": "i", "a": "ɑ", "m": "m"}
TEXTS = ("same", "mas se", "esa", "am es", "sea", "mesa", "sam", "ame", "see ma", "mess")


def spoken(text: str) -> torch.Tensor:
    """A tone for each letter, with pauses between them."""
    time = torch.arange(1_600) / 16_000
    parts = [torch.cat([0.3 * torch.sin(6.2832 * PITCH[c] * time), torch.zeros(800)]) for c in text]
    return torch.cat(parts) + 0.001 * torch.randn(2_400 * len(parts))


def write_corpus(folder: Path) -> Path:
    """Tones for letters: six utterances with labels, two without, two of the validation split."""
    rows = []
    for i, text in enumerate(TEXTS):
        soundfile.write(folder / f"{i}.wav", spoken(text).numpy(), 16_000)
        split = "validation" if i > 7 else "train"
        phonemes = " ".join(IPA[c] for c in text if c in IPA)
        labels = {} if i in (6, 7) else {"text": text.upper(), "extra": {"phonemes": phonemes}}
        rows.append(Row(path=folder / f"{i}.wav", split=split, **labels))
    write_manifest(folder / "manifest.csv", rows)
    return folder / "manifest.csv"
