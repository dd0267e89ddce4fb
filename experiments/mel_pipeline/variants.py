"""What is trained for the comparison: each variant by its trainer's own preset, for as long as the others."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from engine.user_error import UserError
from experiments import trainers
from experiments.study import Cost, Study, Training
from vocoders.tasks.presets import PRESETS as VOCODERS
from w2w.baselines import predict
from w2w.baselines.cluit_mel.presets import PRESETS as CLUIT_MEL
from w2w.baselines.stargan.train import PRESETS as STARGAN
from w2w.train import PRESETS as WAVE_TO_WAVE

PRESETS = {
    "w2w": "small",
    "cluit_mel": "bank_norm_label_small",
    "cluit_mel_tuned": "hifigan_small",
    "stargan": "own_small",
}
"""By variant, the preset it trains if nothing else is said."""
CHOICES: dict[str, Any] = {
    "w2w": WAVE_TO_WAVE,
    "cluit_mel": CLUIT_MEL,
    "cluit_mel_tuned": VOCODERS,
    "stargan": STARGAN,
}
TUNED = "cluit_mel_tuned"
"""The released vocoder, tuned to the mels that CLUIT-mel makes: beyond the time that all have."""
TUNING_RATE = 3e-4
"""Peak learning rate of the vocoder that is tuned: it has learned to speak already."""
ADVERSARIES_FROM = 1 / 3
"""Share of its run after which it has adversaries; they begin from nothing."""


def train(name: str, study: Study, presets: dict[str, str]) -> Cost:
    """Train a variant, or what is left of it, unless it is finished; return its cost."""
    if name == TUNED and study.cost(name) is None:
        if not (study.folder("cluit_mel") / "cost.json").is_file():
            raise UserError(f"{TUNED} needs cluit_mel in {study.out}: train that first (--only)")
        predict_mels(study)
    return study.train(name, partial(training, name, study, preset(name, presets)))


def preset(name: str, presets: dict[str, str]) -> Any:
    """The trainer's config of a preset's name."""
    choices, chosen = CHOICES[name], presets[name]
    if chosen not in choices:
        raise UserError(
            f"--presets {name}={chosen}: there is no such preset; choose from {', '.join(choices)}"
        )
    return choices[chosen]


def training(name: str, study: Study, config: Any, folder: Path, steps: int) -> Training:
    config = replace(config, data=replace(config.data, path=str(study.options["data"])))
    match name:
        case "w2w":
            return trainers.wave_to_wave(config, folder, steps)
        case "cluit_mel":
            return trainers.cluit_mel(config, folder, steps)
        case "stargan":
            rates = {
                player: trainers.falling(getattr(config, player), steps)
                for player in ("optim_generator", "optim_discriminator")
            }
            return trainers.stargan(
                replace(config, loop=trainers.run_loop(config.loop, folder, steps), **rates)
            )
    config = replace(config, init="released", predicted_mels=str(folder / "mels"))
    return trainers.vocoder(config, folder, steps, lr=TUNING_RATE, adversary_from=ADVERSARIES_FROM)


def predict_mels(study: Study) -> None:
    """Convert every training recording to its own voice by the trained converter, as mels: once."""
    folder = study.folder(TUNED) / "mels"
    if not (folder / "complete").is_file():
        converter = study.folder("cluit_mel") / "export"
        data = str(study.options["data"])
        predict.main(["--checkpoint", str(converter), "--data", data, "--out", str(folder)])
        (folder / "complete").touch()
