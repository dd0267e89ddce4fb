"""Scores of one conversion: speaker similarity, intelligibility, sound quality and pitch."""

import html
import math
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from data.audio import excerpt
from engine.user_error import UserError
from eval import error_rates, pitch, quality, similarity
from eval.features import SAMPLE_RATE, SHORTEST_SECONDS
from eval.scoring import Judges

Wave = Float[Tensor, "1 1 samples"]

JUDGED_S = 30.0
"""Only the first seconds of each recording are scored, as speech recognition is slow."""
_one_at_a_time = threading.Lock()
"""The recogniser is a single object with state, so only one thread may use it."""


class Score(NamedTuple):
    name: str
    value: str
    meaning: str
    """How to read the value."""


class Waves(NamedTuple):
    """Waves to score, at 16 kHz."""

    source: Wave
    converted: Wave
    target: Wave | None
    """A recording of the target voice; None if the voice was made from words."""


def score(source: Path, converted: Path, target: Path | None, *, judges: Judges | None = None) -> list[Score]:
    """Score a conversion; a judge that is not installed gives a row that says how to install it."""
    judges = judges or Judges()
    waves = Waves(_beginning(source), _beginning(converted), target and _beginning(target))
    scores = []
    with _one_at_a_time:
        for name, judge in (
            ("Voice", _similarity),
            ("Words", _intelligibility),
            ("Sound", _quality),
            ("Pitch", _pitch),
        ):
            try:
                scores += judge(waves, judges)
            except UserError as missing:
                scores.append(Score(name, "–", str(missing)))
    return scores


def table(scores: list[Score], seconds: float) -> str:
    rows = "".join(
        f'<tr><th scope="row">{html.escape(row.name)}</th><td>{html.escape(row.value)}</td>'
        f"<td>{html.escape(row.meaning)}</td></tr>"
        for row in scores
    )
    part = f" Only the first {JUDGED_S:.0f} s are scored." if seconds > JUDGED_S else ""
    return (
        f'<table class="scores"><caption>Automatic scores of this conversion.{part}</caption>'
        '<thead><tr><th scope="col">Metric</th><th scope="col">Score</th><th scope="col">How to read it</th>'
        f"</tr></thead><tbody>{rows}</tbody></table>"
    )


def _beginning(path: Path) -> Wave:
    wave = excerpt(path, 0, round(JUDGED_S * SAMPLE_RATE), SAMPLE_RATE)
    if wave.shape[-1] < SHORTEST_SECONDS * SAMPLE_RATE:
        raise UserError(
            f"{path.name} lasts {wave.shape[-1] / SAMPLE_RATE:.3f} s; scoring needs {SHORTEST_SECONDS} s"
        )
    return wave


def _similarity(waves: Waves, judges: Judges) -> list[Score]:
    embedding: Callable = lambda wave: judges.voice(wave)["embedding"]  # noqa: E731
    converted = embedding(waves.converted)
    scores = []
    if waves.target is not None:
        value = similarity.cosine(converted, embedding(waves.target))
        meaning = "higher is better; two recordings of one person: about .86"
        scores.append(Score("Similarity to the target's voice", f"{value:.2f}", meaning))
    value = similarity.cosine(converted, embedding(waves.source))
    meaning = "lower is better; two different people: about .51"
    return [*scores, Score("Similarity to the source's voice", f"{value:.2f}", meaning)]


def _intelligibility(waves: Waves, judges: Judges) -> list[Score]:
    source, converted = (judges.recognisers[0](wave) for wave in (waves.source, waves.converted))
    if "phones" in converted:
        value = error_rates.phones_changed(source, converted)
        return [Score("Phones changed", _number(value), "lower is better; 0: none")]
    before, after = (error_rates.normalise(str(features["texts"][0])) for features in (source, converted))
    value = error_rates.error_rates(before, converted)["cer"]
    meaning = (
        "lower is better; compares the English texts recognised in result and source, with recognition errors"
        " even for clean speech"
    )
    return [
        Score("Character error rate (CER)", _number(value), meaning),
        Score("Recognised in the source", before or "nothing", "the recogniser's text"),
        Score("Recognised in the result", after or "nothing", "the recogniser's text"),
    ]


def _quality(waves: Waves, judges: Judges) -> list[Score]:
    converted, before = (quality.opinions(judges.sound(wave)) for wave in (waves.converted, waves.source))
    meaning = f"from 1 (bad) to 5 (excellent); the source: {before['dnsmos']:.2f}"
    return [Score("Sound quality (DNSMOS)", f"{converted['dnsmos']:.2f}", meaning)]


def _pitch(waves: Waves, judges: Judges) -> list[Score]:
    source, output = judges.melody(waves.source), judges.melody(waves.converted)
    target = output if waves.target is None else judges.melody(waves.target)
    compared = pitch.compare(source, output, target)
    scores = [Score("Mean pitch", _hertz(output), f"the source's: {_hertz(source)}")]
    if waves.target is not None:
        away = compared["f0_offset"]
        value = "–" if math.isnan(away) else f"{away:+.1f} semitones"
        meaning = f"0 is best unless you shifted the pitch; the target's: {_hertz(target)}"
        scores.append(Score("Pitch above the target's", value, meaning))
    meaning = "higher is better; 1: same rises and falls as the source"
    return [*scores, Score("Intonation kept (F0 correlation)", _number(compared["f0_correlation"]), meaning)]


def _hertz(features: dict) -> str:
    mean = pitch.log_mean(features["f0"])
    return "none found" if math.isnan(mean) else f"{math.exp(mean):.0f} Hz"


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.2f}"
