"""How each trainer's preset is fitted to a number of steps, and where its steps change their cost.

The trainers' presets are for long runs. Here every decay of the learning rate ends with the run, and what
begins at some step begins at the same share of it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from data.batches import batches
from engine.loop import Batches, LoopConfig, Task
from engine.optim import OptimConfig
from engine.user_error import UserError
from experiments.mel_pipeline.budget import Phase

CONVERTS_FROM, CRITIC_FROM = 0.04, 0.25
"""Shares of a wave-to-wave run after which it converts, and after which its critic is heard."""
VOCODER_CRITIC_FROM = 1 / 3
"""Share of a vocoder's run after which its adversaries are heard; they begin from nothing."""
TUNING_RATE = 3e-4
"""Peak learning rate of a vocoder that is tuned: it speaks already."""
FINAL_RATE = 0.05
"""Share of the learning rate left at the end of a run."""


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What all runs share."""

    data: Path
    out: Path
    minutes: float
    """Processor time of every run, on one thread."""
    tune_minutes: float
    """Of tuning the vocoder to a converter's mels, beyond that."""
    presets: Mapping[str, str]
    """What each arm trains."""

    def folder(self, arm: str) -> Path:
        """Where an arm's plan, run and export lie."""
        return self.out / arm


def preset(presets: Mapping[str, Any], arm: str, bench: Bench) -> Any:
    """The preset of its trainer that an arm was given."""
    name = bench.presets[arm]
    if name not in presets:
        raise UserError(f"--presets {arm}={name}: there is no such preset; choose from {', '.join(presets)}")
    return presets[name]


def looped(loop: LoopConfig, run: Path, steps: int) -> LoopConfig:
    """A run on one thread of the processor that shows nothing on its way and saves ten times."""
    every = max(steps // 10, 1)
    ours: dict[str, Any] = {"out": run, "steps": steps, "save_every": every, "sample_every": 0, "keep": 1}
    return replace(loop, **ours, trackers="none", cpu=True, threads=1, workers=0, max_minutes=0.0)


def fitted(optim: OptimConfig, steps: int) -> OptimConfig:
    """Its warm-up at most the first tenth of the run, its decay the rest."""
    warmup = min(optim.warmup_steps, steps // 10)
    return replace(optim, warmup_steps=warmup, hold_steps=0, decay_steps=max(steps - warmup, 1))


def falling(optim: OptimConfig, steps: int) -> OptimConfig:
    """The same where the preset's rate is constant: in so short a run it must come to rest, too."""
    return fitted(replace(optim, schedule="cosine", final=FINAL_RATE), steps)


def speech_crops(config: Any) -> Batches:
    """The trainers' batches of speech."""
    return batches(config.data, config.loop.seed)


def w2w_config(bench: Bench, steps: int) -> Any:
    """Wave to wave: it converts and hears its critic after the shares of a long run's steps."""
    from w2w.train import PRESETS

    base = preset(PRESETS, "w2w", bench)
    begins = {"convert_from": round(CONVERTS_FROM * steps), "adversary_from": round(CRITIC_FROM * steps)}
    return replace(
        base,
        loop=looped(base.loop, bench.folder("w2w") / "run", steps),
        data=replace(base.data, path=str(bench.data)),
        cluit=replace(base.cluit, **begins),
        optim_converter=fitted(base.optim_converter, steps),
        optim_critic=fitted(base.optim_critic, steps),
    )


def w2w_phases(config: Any) -> list[Phase]:
    """Reconstruction alone; conversion too; and the critic, who descends every n-th step."""
    cluit = config.cluit
    return [
        Phase(share=CONVERTS_FROM, step=0),
        Phase(share=CRITIC_FROM - CONVERTS_FROM, step=cluit.convert_from),
        Phase(share=1.0 - CRITIC_FROM, step=cluit.adversary_from, period=cluit.critic_every),
    ]


def w2w_task(config: Any) -> Task:
    """The trainer's task."""
    from w2w.train import build

    return build(config)


def cluit_mel_config(bench: Bench, steps: int) -> Any:
    """CLUIT on mels, with a rate that falls."""
    from w2w.baselines.cluit_mel.train import PRESETS

    base = preset(PRESETS, "cluit_mel", bench)
    return replace(
        base,
        loop=looped(base.loop, bench.folder("cluit_mel") / "run", steps),
        data=replace(base.data, path=str(bench.data)),
        optim_generator=falling(base.optim_generator, steps),
        optim_critic=falling(base.optim_critic, steps),
    )


def cluit_mel_completed(config: Any, crops: Any) -> Any:
    """With the numbers of speakers and recordings."""
    from w2w.baselines.cluit_mel.train import completed

    return completed(config, crops.crops)


def cluit_mel_phases(config: Any) -> list[Phase]:
    """One, in which every n-th step has a gradient penalty."""
    return [Phase(share=1.0, step=0, period=config.task.r1_every)]


def cluit_mel_task(config: Any) -> Task:
    """The trainer's task."""
    from w2w.baselines.cluit_mel.train import build

    return build(config)


def stargan_config(bench: Bench, steps: int) -> Any:
    """StarGAN, with rates that fall, and with the names of the data's labels."""
    from w2w.baselines.stargan.train import PRESETS, completed

    base = preset(PRESETS, "stargan", bench)
    config = replace(
        base,
        loop=looped(base.loop, bench.folder("stargan") / "run", steps),
        data=replace(base.data, path=str(bench.data)),
        optim_generator=falling(base.optim_generator, steps),
        optim_discriminator=falling(base.optim_discriminator, steps),
    )
    return completed(config)


def stargan_crops(config: Any) -> Batches:
    """The trainer's batches: a part for each of the discriminator's updates."""
    from w2w.baselines.stargan.batches import labelled_batches

    net, parts = config.stargan, config.task.critic_updates
    return labelled_batches(config.data, config.loop, net.spectrogram, net.labels, n_parts=parts)


def stargan_phases(config: Any) -> list[Phase]:
    """One: every step has all of both players' updates."""
    return [Phase(share=1.0, step=0)]


def stargan_task(config: Any) -> Task:
    """The trainer's task."""
    from w2w.baselines.stargan.train import build

    return build(config)


def predict_mels(bench: Bench) -> None:
    """Every training recording's mel, converted to its own voice by the trained converter: once."""
    from w2w.baselines.predict import main as predict  # pyright: ignore

    folder = bench.folder("cluit_mel_tuned") / "mels"
    if (folder / "complete").is_file():
        return
    converter = bench.folder("cluit_mel") / "export"
    predict(["--checkpoint", str(converter), "--data", str(bench.data), "--out", str(folder)])
    (folder / "complete").touch()


def vocoder_config(bench: Bench, steps: int) -> Any:
    """The released vocoder, going on with the mels that the converter makes."""
    from vocoders.tasks.presets import PRESETS

    base = preset(PRESETS, "cluit_mel_tuned", bench)
    folder = bench.folder("cluit_mel_tuned")
    rates = {
        name: falling(replace(getattr(base.task, name), lr=TUNING_RATE), steps)
        for name in ("generator", "critic")
    }
    return replace(
        base,
        loop=looped(base.loop, folder / "run", steps),
        data=replace(base.data, path=str(bench.data)),
        task=replace(base.task, adversary_from=round(VOCODER_CRITIC_FROM * steps), **rates),
        init="released",
        predicted_mels=str(folder / "mels"),
    )


def vocoder_crops(config: Any) -> Batches:
    """Recordings with the mels that were predicted for them."""
    from vocoders.train import crops

    return crops(config, 0, 1)


def vocoder_phases(config: Any) -> list[Phase]:
    """Spectra alone, then adversaries."""
    return [
        Phase(share=VOCODER_CRITIC_FROM, step=0),
        Phase(share=1.0 - VOCODER_CRITIC_FROM, step=config.task.adversary_from),
    ]


def vocoder_task(config: Any) -> Task:
    """The trainer's task."""
    from vocoders.train import build

    return build(config, [])
