"""Score causal F0 trackers against non-causal ones.

python -m pretrain.pitch.score --data speech --split validation --tracker released
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from data.audio import load
from data.rows import split_rows
from engine.config import cli
from engine.table import markdown
from engine.user_error import exits_cleanly
from pretrain.pitch.labels import GUESSED, SAMPLE_RATE, Curves, label
from pretrain.pitch.network import LearnedPitchTracker, PitchNetworkConfig, load_pitch_tracker, tracked
from pretrain.pitch.tracker import PitchTracker

QUARTER = 0.25 * np.log(2.0)
"""Log-F0 error above which a frame counts as a gross error: a quarter of an octave."""
NAMES = ("correlation", "gross errors", "voicing differs", "mean off, semitones")
"""Columns: the correlation of log-F0 over all frames that Harvest calls voiced; the fraction of them with a
gross error; the fraction of frames whose voicing differs from SwiftF0's; the error of the mean log-F0."""


@dataclass(frozen=True, kw_only=True)
class ScoreConfig:
    """Scoring of causal F0 trackers."""

    data: str = ""
    """A manifest or a folder of recordings."""
    split: str = "validation"
    """Split of the corpus to use."""
    recordings: int = 100
    """Maximum number of recordings; the first ones are used."""
    tracker: tuple[str, ...] = ("classical", "released", "released_ahead")
    """Each ``classical``, ``released``, ``released_ahead``, or a run or export of ``pretrain/f0.py``."""


@exits_cleanly
def main() -> None:
    config = cli({"default": ScoreConfig()})
    torch.set_grad_enabled(False)
    rows = split_rows(config.data, config.split)[: config.recordings]
    waves = [load(row.path, SAMPLE_RATE) for row in rows]
    shape = PitchNetworkConfig()
    labels = [label(wave[0, 0].numpy(), shape) for wave in waves]
    lines = []
    for name in config.tracker:
        tracker = (
            PitchTracker(SAMPLE_RATE, shape.hop, relative_level=True)
            if name == "classical"
            else load_pitch_tracker(name)
        )
        scores = np.array([score(tracker, wave, found) for wave, found in zip(waves, labels)])
        lines.append([name, *(f"{value:.3f}" for value in np.nanmean(scores, axis=0))])
    print(markdown(["tracker", *NAMES], lines))


def score(
    tracker: PitchTracker | LearnedPitchTracker, wave: Float[torch.Tensor, "1 1 samples"], labels: Curves
) -> tuple[float, ...]:
    """Return the columns of ``NAMES`` for one recording; NaN where nothing is voiced."""
    shape = PitchNetworkConfig()
    extra_ms = (
        tracker.config.look_ahead_ms - shape.look_ahead_ms if isinstance(tracker, LearnedPitchTracker) else 0
    )
    pitch = tracked(tracker, wave[..., : labels.shape[-1] * shape.hop], round(extra_ms / shape.hop_ms))
    log_f0, voicing = (curve[0, 0].numpy() for curve in pitch)
    target, weight, target_voicing = labels
    known, voiced = weight > GUESSED, (weight > GUESSED) & (voicing > 0.5)
    if known.sum() < 10 or not voiced.any():
        return (np.nan,) * len(NAMES)
    correlation = np.corrcoef(log_f0[known], target[known])[0, 1]
    gross = (np.abs(log_f0 - target)[known] > QUARTER).mean()
    mean = 12 / np.log(2.0) * abs(log_f0[voiced].mean() - target[known].mean())
    return correlation, gross, ((voicing > 0.5) != (target_voicing > 0.5)).mean(), mean


if __name__ == "__main__":
    main()
