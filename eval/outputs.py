"""Outputs of converters: every pair's source converted to the voice of its references."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from data.audio import load
from data.audio.writing import save
from engine.user_error import UserError
from eval.pairs import Pair


def load_converter(folder: str) -> Any:
    from w2w import Converter

    return Converter.from_pretrained(folder)


def load_two_stage(named: Sequence[str], taken: Iterable[str]) -> dict[str, Any]:
    """Load mel converters, each given as FOLDER or FOLDER+VOCODER, and return them by system name.

    Names are made of the folders' names, with a number appended if already ``taken``.
    """
    from w2w import Converter
    from w2w.weights import is_mel_converter, weights_folder

    converters, taken = {}, set(taken)
    for where in named:
        folder, _, vocoder = where.rpartition("+")
        if Path(where).exists() or not (folder and vocoder):
            folder, vocoder = where, ""
        if not is_mel_converter(weights_folder(folder)):
            raise UserError(f"--two-stage {folder} holds no mel converter: use --converter for others")
        called = name = readable(folder) + (f"+{readable(vocoder)}" if vocoder else "")
        number = 2
        while name in taken:
            name, number = f"{called}_{number}", number + 1
        taken.add(name)
        converters[name] = Converter.from_pretrained(folder, vocoder=vocoder or None)
    return converters


def readable(where: str) -> str:
    """Name of a folder, or of its run if the folder is an ``export``."""
    path = Path(where)
    return path.absolute().parent.name if path.name in ("export", "") else path.name


class Voices:
    """Applies a converter, such as ``w2w.Converter``, to files, and caches the voices it embeds.

    The converter needs ``sample_rate``, ``embed`` (wave to voice) and ``convert`` (wave and voice to wave).
    If it has ``fit``, each voice is fitted to its references in ``fit_steps`` optimisation steps.
    """

    def __init__(self, converter: Any, fit_steps: int | None = None) -> None:
        self.converter, self.fit_steps = converter, fit_steps
        self.voice = lru_cache(maxsize=256)(self._voice)

    def _voice(self, references: tuple[Path, ...], fit_steps: int | None) -> Tensor:
        clips = [load(path, self.converter.sample_rate) for path in references]
        voice = torch.stack([self.converter.embed(clip) for clip in clips]).mean(0)
        fit = getattr(self.converter, "fit", None)
        return voice if fit is None else fit(voice, clips, steps=fit_steps)

    @torch.inference_mode()
    def speak(
        self, source: Path, references: Sequence[Path], out: Path, *, fit_steps: int | None = None
    ) -> None:
        voice = self.voice(tuple(references), self.fit_steps if fit_steps is None else fit_steps)
        wave = load(source, self.converter.sample_rate)
        log_f0 = getattr(self.converter, "source_log_f0", None)
        options = {} if log_f0 is None else {"source_log_f0": log_f0(wave)}
        wave = self.converter.convert(wave, voice, **options)
        if not wave.isfinite().all():
            raise UserError(f"the converter turned {source} into NaN; this checkpoint cannot be scored")
        save(out, wave, self.converter.sample_rate)

    def resynthesise(self, source: Path, out: Path) -> None:
        """Convert a file to its own voice as embedded by the style encoder, without fitting."""
        self.speak(source, [source], out, fit_steps=0)


def make_outputs(
    pairs: Sequence[Pair], voices: Voices, out: Path, system: str, failed: list[str] | None = None
) -> list[Pair]:
    """Convert every pair's source into a file in ``out/<system>/`` and return pairs with these outputs.

    The error message of each pair that cannot be converted is added to ``failed``; if it is None, the first
    error is raised.
    """
    converted = []
    for number, pair in enumerate(tqdm(pairs, desc=f"converting by {system}", unit="pair")):
        path = out / system / f"{number:03d}.wav"
        try:
            voices.speak(pair.source, pair.voice_clips, path)
            converted.append(replace(pair, system=system, output=path))
        except UserError as fault:
            if failed is None:
                raise
            failed.append(f"{system}, {pair.where}: {fault}")
    return converted
