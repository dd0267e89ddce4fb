"""Speech recognisers from a folder or the hub: transformers models, or those trained here."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from engine.config import stored_kind
from engine.hub import HUB
from engine.user_error import UserError
from eval.features import SAMPLE_RATE, SILENT, Features

Wave = Float[Tensor, "1 1 samples"]


@dataclass(frozen=True)
class TrainedRecogniser:
    """A transformers model (CTC, Whisper, …) or a recogniser trained here, from a folder or the hub.

    One trained here may recognise phones instead of letters; an output's phones are then compared with the
    source's. Scores are too favourable for a converter that was trained with this recogniser as a loss.
    """

    place: str
    """Folder or ``hub:owner/name``."""
    english_only: bool = False

    @property
    def name(self) -> str:
        return Path(self.place.removeprefix(HUB)).resolve().name

    @property
    def kind(self) -> str:
        """Cache key; that of a folder changes with its weights file."""
        if self.place.startswith(HUB):
            return f"recogniser-{self.place.removeprefix(HUB).replace('/', '--')}-1"
        weights = next(iter(sorted(Path(self.place).glob("*.safetensors"))), None)
        stamp = f"-{weights.stat().st_size}-{weights.stat().st_mtime_ns}" if weights else ""
        return f"recogniser-{self.name}{stamp}-1"

    def check(self) -> None:
        _trained(self.place)

    def __call__(self, wave: Wave) -> Features:
        units, transcribe = _trained(self.place)
        if wave.abs().max() < SILENT:
            return {units: np.array([""])}
        with torch.inference_mode():
            return {units: np.array([transcribe(wave)])}


@lru_cache(maxsize=2)
def _trained(place: str) -> tuple[Literal["texts", "phones"], Any]:
    if not place.startswith(HUB):
        description = Path(place) / "config.json"
        if not description.is_file():
            raise UserError(
                f"{place} holds no recogniser: it has no config.json; give moonshine, pocketsphinx, "
                f"the folder of a recogniser, or {HUB}owner/name"
            )
        kind = stored_kind(place)
        if kind == "speech_recogniser":
            from pretrain.speech.loading import load_speech_recogniser

            tuned = load_speech_recogniser(place)
            return "phones" if tuned.units.between else "texts", lambda wave: tuned.transcribe(wave)[0]
        if kind == "phone_recogniser":
            from pretrain.recogniser import load_recogniser

            ours = load_recogniser(place)
            return "phones", lambda wave: ours.transcribe(wave)[0]
    from transformers import pipeline

    try:
        model: Any = pipeline("automatic-speech-recognition", model=place.removeprefix(HUB))
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).split("\n")[0].rstrip(".")
        raise UserError(
            f"{place} holds no usable recogniser ({reason}): give another, moonshine or pocketsphinx"
        ) from None
    return "texts", lambda wave: model({"raw": wave[0, 0].numpy(), "sampling_rate": SAMPLE_RATE})["text"]
