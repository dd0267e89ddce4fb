"""Voices from command-line names: files and folders of speech, speakers of a manifest, blends of these."""

import difflib
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from data.audio import audio_files, excerpt
from data.manifest import rows_from
from engine.outcome import leaving_out
from engine.user_error import UserError
from w2w.converter import Converter, Voice
from w2w.recording import FITTED_S, richest

Wave = Float[Tensor, "1 1 _"]
MOST_STEPS = 10_000
HEARD_S = 900.0
"""Seconds of each reference that are used, from its beginning."""


def check_fit_steps(steps: int | None) -> None:
    if steps is not None and not 0 <= steps <= MOST_STEPS:
        raise UserError(f"--fit-steps {steps} must be from 0, no fitting, to {MOST_STEPS}")


class Voices:
    """Embeds and fits voices from speech by name.

    A name is a file, a folder of files, or, with a manifest, one of its speakers; a speaker takes precedence
    over a file of the same name (write ``./name`` for the file).
    """

    def __init__(
        self, converter: Converter, manifest: str | None = None, *, fit_steps: int | None = 0
    ) -> None:
        self.converter, self.manifest = converter, manifest
        self.fit_steps = fit_steps
        """Steps of fitting a voice to its clips; None: the default."""
        self.speakers: dict[str, list[Path]] = {}
        self.files: list[Path] = []
        """All files that were used."""
        self.left_out: list[str] = []
        """Faults of the clips, in folders or of speakers, that were left out."""
        for row in rows_from(manifest) if manifest else []:
            if row.speaker is not None:
                self.speakers.setdefault(row.speaker, []).append(row.path)
        if manifest and not self.speakers:
            raise UserError(f"{manifest} names no speakers: give the files by --reference")

    def average(self, names: Sequence[str]) -> Voice:
        """Mean voice over all clips of the names."""
        return self._mean([clip for name in names for clip in self._clips(self._files(name))])

    def speaker(self, name: str) -> Voice:
        """Mean voice over the clips of a manifest's speaker, or the network's own voice of this name."""
        named_voice = getattr(self.converter.network, "named_voice", None)
        if named_voice is not None and name not in self.speakers:
            return named_voice(name)
        if not self.manifest:
            raise UserError(f"--speaker {name} needs --data MANIFEST, which lists the speaker's recordings")
        if name not in self.speakers:
            raise UserError(
                f"{self.manifest} has no speaker {name!r}: the nearest names are {self._near(name)}"
            )
        return self._mean(self._clips(self.speakers[name]))

    def blend(self, parts: Sequence[str]) -> Voice:
        """Weighted mean of voices given as ``NAME:WEIGHT``; names may contain colons, too."""
        names, weights = [], []
        for part in parts:
            name, _, number = part.rpartition(":")
            try:
                weight = float(number)
            except ValueError:
                weight = math.nan
            if not name or not math.isfinite(weight):
                raise UserError(
                    f"--blend {part} must be written VOICE:WEIGHT, such as {part.rstrip(':') or 'a.wav'}:0.5"
                )
            names.append(name)
            weights.append(weight)
        if min(weights) < 0 or sum(weights) <= 0:
            raise UserError(f"--blend {' '.join(parts)}: weights must be 0 or more, and not all 0")
        return self.converter.blend([self._part(name) for name in names], weights)

    def _part(self, name: str) -> Voice:
        """A voice of a blend; the gallery's names are tried last."""
        from w2w.gallery.named import gallery

        if name not in self.speakers and not Path(name).exists() and name.lower() in gallery():
            return self.converter.voice(name, fit_steps=self.fit_steps)
        return self.average([name])

    def _files(self, name: str) -> list[Path]:
        path = Path(name)
        if name in self.speakers:
            return self.speakers[name]
        if path.is_dir():
            return audio_files(path)
        if path.exists() or not self.manifest:
            return [path]
        raise UserError(
            f"{name} is no file, no folder, and no speaker of {self.manifest} (nearest: {self._near(name)})"
        )

    def _near(self, name: str) -> str:
        return ", ".join(difflib.get_close_matches(name, list(self.speakers), n=3, cutoff=0.0))

    def _mean(self, clips: Sequence[tuple[Wave, Voice]]) -> Voice:
        waves, voices = zip(*clips)
        return self.converter.fit(torch.stack(voices).mean(0), waves, steps=self.fit_steps)

    def _clips(self, files: Sequence[Path]) -> list[tuple[Wave, Voice]]:
        """The clips of one name, shortened, with their voices; bad clips are left out if any is good."""
        rate, voices = self.converter.sample_rate, []
        faults: list[str] = []
        for file in tqdm(files, desc="embedding", unit="clip", delay=2.0, leave=False, disable=None):
            with leaving_out(faults):
                clip = excerpt(file, 0, round(HEARD_S * rate), rate)
                voice = self.converter.embed(clip, names=[str(file)])
                voices.append((richest(clip, rate, FITTED_S).clone(), voice))
                self.files.append(file)
        if not voices:
            raise UserError(faults[0])
        self.left_out += faults
        return voices
