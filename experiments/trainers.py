"""Each trainer as a study runs it: its config fitted to a number of steps, and where steps change their cost.

Presets are for long runs. Here what begins at some step begins at a share of the run, and the learning rates
of short runs fall to their end.
"""

from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from data.batches import Batches, DataConfig, batches
from data.pairs import PairConfig, batches_together
from engine.loop import LoopConfig
from engine.optim import OptimConfig
from experiments.study import Phase, Training
from w2w.baselines.cluit_mel import train as cluit_mel_trainer
from w2w.baselines.stargan import train as stargan_trainer
from w2w.baselines.stargan.labels import labelled_batches
from w2w.pretrained import with_encoders
from w2w.train import build as build_cluit
from w2w.train_config import TrainConfig

CONVERT_FROM, BACK_TRANSLATE_FROM, ADVERSARY_FROM = 0.05, 0.2, 0.5
"""Shares of a wave-to-wave run after which it converts, learns from conversions, and has an adversary. The
preset of a long run has its adversary earlier: what short runs lack first are words, not sound."""
FINAL_RATE = 0.05
"""Share of the learning rate left at the end of a run."""
SAVES = 10
"""Checkpoints of a run, of which the newest is kept."""


def run_loop(loop: LoopConfig, folder: Path, steps: int, *, processor: bool = True) -> LoopConfig:
    """The loop of a run; where processor time is the budget, on one thread of it."""
    place: dict[str, Any] = {"cpu": True, "threads": 1, "workers": 0} if processor else {}
    every = max(steps // SAVES, 1)
    return replace(loop, out=folder, steps=steps, save_every=every, sample_every=0, keep=1, **place)


def fitted(optim: OptimConfig, steps: int) -> OptimConfig:
    """Its warm-up is at most the first tenth of the run, its decay the rest."""
    warmup = min(optim.warmup_steps, steps // 10)
    return replace(optim, warmup_steps=warmup, hold_steps=0, decay_steps=max(steps - warmup, 1))


def falling(optim: OptimConfig, steps: int) -> OptimConfig:
    """The same where the preset's rate is constant: in so short a run it must come to rest, too."""
    return fitted(replace(optim, schedule="cosine", final=FINAL_RATE), steps)


@lru_cache(maxsize=1)
def _speech_and_pairs(data: DataConfig, pairs: PairConfig, seed: int) -> Batches[Any]:
    """Read once for all runs on the same data: a large corpus takes minutes."""
    return batches_together(data, pairs, seed)


def wave_to_wave(config: TrainConfig, folder: Path, steps: int, *, processor: bool = True) -> Training:
    shares = {
        "convert_from": CONVERT_FROM,
        "back_translate_from": BACK_TRANSLATE_FROM,
        "adversary_from": ADVERSARY_FROM,
    }
    begins = {name: round(share * steps) for name, share in shares.items()}
    config = replace(
        config,
        loop=run_loop(config.loop, folder, steps, processor=processor),
        cluit=replace(config.cluit, **begins),
        converter=with_encoders(config.converter, config.pretrained),
        optim_converter=fitted(config.optim_converter, steps),
    )
    starts = sorted({0, *begins.values()})
    phases = [
        Phase(
            share=(end - start) / steps,
            step=start,
            period=config.cluit.discriminator_every if start >= config.cluit.adversary_from else 1,
        )
        for start, end in zip(starts, [*starts[1:], steps])
    ]
    return Training(
        config=config,
        batches=_speech_and_pairs(config.data, config.pairs, config.loop.seed),
        build=lambda: build_cluit(config),
        phases=phases,
    )


def cluit_mel(config: cluit_mel_trainer.CluitMelTrainConfig, folder: Path, steps: int) -> Training:
    """CLUIT on mels, with rates that fall; every n-th step has a gradient penalty."""
    config = replace(
        config,
        loop=run_loop(config.loop, folder, steps),
        optim_generator=falling(config.optim_generator, steps),
        optim_critic=falling(config.optim_critic, steps),
    )
    crops = batches(config.data, config.loop.seed)
    config = cluit_mel_trainer.completed(config, crops.crops)
    return Training(
        config=config,
        batches=crops,
        build=lambda: cluit_mel_trainer.build(config),
        phases=[Phase(period=config.task.r1_every)],
    )


def stargan(config: stargan_trainer.StarGANTrainConfig) -> Training:
    """StarGAN, whose loop and rates are as its config says; every step has all of both players' updates."""
    config = stargan_trainer.completed(config)
    net, parts = config.stargan, config.task.critic_updates
    return Training(
        config=config,
        batches=labelled_batches(config.data, config.loop, net.spectrogram, net.labels, n_parts=parts),
        build=lambda: stargan_trainer.build(config),
    )


def vocoder(config: Any, folder: Path, steps: int, *, lr: float, adversary_from: float) -> Training:
    """A vocoder that is tuned: at another rate, which falls, its adversaries after a share of the run."""
    from vocoders.tasks.config import export_run
    from vocoders.train import build, crops

    rates = {
        name: falling(replace(getattr(config.task, name), lr=lr), steps) for name in ("generator", "critic")
    }
    begins = round(adversary_from * steps)
    config = replace(
        config,
        loop=run_loop(config.loop, folder, steps),
        task=replace(config.task, adversary_from=begins, **rates),
    )
    return Training(
        config=config,
        batches=crops(config, 0, 1),
        build=lambda: build(config, []),
        phases=[Phase(share=adversary_from), Phase(share=1.0 - adversary_from, step=begins)],
        export=export_run,
    )
