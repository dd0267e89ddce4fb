"""Intelligibility: how much of the true text a recogniser still reads from a recording."""

import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from engine.user_error import UserError
from eval.cache import Features, model_stamp

SAMPLE_RATE = 16_000
SHIFT_SAMPLES = 53
"""Samples cut from the front for each further decoding: a third of a frame."""
INSTALL = "pip install 'timbre[eval]'"


@dataclass(frozen=True)
class Sphinx:
    """pocketsphinx with the English model of its wheel.

    It is chaotic: a shift by a third of a frame changes a file's CER by some hundredths, so several shifted
    decodings are averaged. Its beams are narrowed and its second pass left out: four times as fast, and the
    CER of natural speech some hundredths higher.
    """

    shifts: int = 2

    @property
    def kind(self) -> str:
        """Cache key."""
        return f"pocketsphinx-{self.shifts}-1"

    def check(self) -> None:
        """Refuse in one sentence if the package is absent."""
        _sphinx()

    def __call__(self, wave: Float[Tensor, "1 1 samples"]) -> Features:
        decoder = _sphinx()
        samples = (wave[0, 0].clamp(-1, 1).numpy() * 32767).round().astype("<i2")
        texts = []
        for shift in range(self.shifts):
            decoder.reinit_feat()  # forgets the running mean of earlier files: results do not depend on order
            decoder.start_utt()
            decoder.process_raw(samples[shift * SHIFT_SAMPLES :].tobytes(), full_utt=True)
            decoder.end_utt()
            hypothesis = decoder.hyp()
            texts.append(hypothesis.hypstr if hypothesis else "")
        return {"texts": np.array(texts)}


@dataclass(frozen=True)
class Recogniser:
    """A recogniser in a local folder: a CTC or Whisper model of transformers, or this project's own.

    Ours hears phones, not letters: an output's are compared with the source's. A converter trained against
    that very recogniser pleases it more than it should.
    """

    folder: str

    @property
    def kind(self) -> str:
        """Cache key: another model hears other words."""
        return f"recogniser-{model_stamp(self.folder)}-1"

    def check(self) -> None:
        """Refuse in one sentence if the folder holds no recogniser."""
        _transcriber(self.folder)

    def __call__(self, wave: Float[Tensor, "1 1 samples"]) -> Features:
        kind, transcribe = _transcriber(self.folder)
        with torch.inference_mode():
            return {kind: np.array([transcribe(wave)])}


def normalise(text: str) -> str:
    """Lower case, letters, digits and apostrophes only, single spaces."""
    text = unicodedata.normalize("NFKC", text).lower().replace("’", "'")
    return re.sub(r"\s+", " ", re.sub(r"[^\w\s']|_", " ", text)).strip()


def phones_changed(source: Features, output: Features) -> float:
    """Edits from the phones heard in the source to those heard in the output, per phone; needs no text."""
    before, after = (str(heard["phones"][0]).split() for heard in (source, output))
    return _edits(before, after) / len(before) if before else float("nan")


def error_rates(text: str, heard: Features) -> dict[str, float]:
    """Character and word error rates against the true text, averaged over decodings; NaN without a text."""
    truth = normalise(text)
    if not truth or "texts" not in heard:
        return {"cer": float("nan"), "wer": float("nan")}
    said = [normalise(str(hypothesis)) for hypothesis in heard["texts"]]
    return {
        "cer": float(np.mean([_edits(truth, s) / len(truth) for s in said])),
        "wer": float(np.mean([_edits(truth.split(), s.split()) / len(truth.split()) for s in said])),
    }


def _edits(truth: str | list[str], said: str | list[str]) -> int:
    """Levenshtein's distance between two sequences."""
    codes = {item: i for i, item in enumerate(dict.fromkeys([*truth, *said]))}
    row = np.arange(len(said) + 1)
    other = np.array([codes[item] for item in said], dtype=int)
    for i, item in enumerate(truth, start=1):
        change = np.minimum(row[:-1] + (other != codes[item]), row[1:] + 1)
        # Insertions run along the row: the least of an earlier cell plus the distance to it.
        steps = np.concatenate([[i], change]) - np.arange(len(said) + 1)
        row = np.minimum.accumulate(steps) + np.arange(len(said) + 1)
    return int(row[-1])


@lru_cache(maxsize=1)
def _sphinx() -> Any:
    try:
        from pocketsphinx import Decoder
    except ImportError:
        raise UserError(
            f"intelligibility needs pocketsphinx: {INSTALL}, or give --recogniser FOLDER"
        ) from None
    return Decoder(samprate=SAMPLE_RATE, loglevel="FATAL", fwdflat=False, topn=2, maxhmmpf=3000, maxwpf=20)


@lru_cache(maxsize=1)
def _transcriber(folder: str) -> tuple[Literal["texts", "phones"], Any]:
    description = Path(folder) / "config.json"
    if not description.is_file():
        raise UserError(f"{folder} holds no recogniser: there is no config.json in it")
    words = description.read_text(encoding="utf-8")
    if '"mix_layers"' in words:
        from pretrain.speech.finetuned import load_speech_recogniser

        tuned = load_speech_recogniser(folder)
        heard = "phones" if tuned.units.between else "texts"
        return heard, lambda wave: tuned.transcribe(wave)[0]
    if '"phones"' in words:
        from pretrain.recogniser import load_recogniser

        ours = load_recogniser(folder)
        return "phones", lambda wave: ours.transcribe(wave)[0]
    from transformers import pipeline

    try:
        local = {"local_files_only": True}
        model: Any = pipeline("automatic-speech-recognition", model=folder, model_kwargs=local)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).split("\n")[0]
        raise UserError(f"{folder} is not a recogniser of transformers: {reason}") from None
    return "texts", lambda wave: model({"raw": wave[0, 0].numpy(), "sampling_rate": SAMPLE_RATE})["text"]
