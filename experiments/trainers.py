"""Trainers for studies: configs adapted to a number of steps, and phases with different costs per step.

Presets are for long runs. Here, steps at which losses start become fractions of the run, and learning rates
decay until the end of the run.
"""

from dataclasses import replace
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from data.batches import Batches, DataConfig, batches
from data.pairs import PairConfig, batches_together
from engine.loop import LoopConfig
from engine.optim import OptimConfig
from experiments.study import Phase, Training
from vocoders import train as vocoder_trainer
from vocoders.tasks.config import export_run
from w2w.baselines.cluit_mel import train as cluit_mel_trainer
from w2w.baselines.stargan import train as stargan_trainer
from w2w.baselines.stargan.labels import labelled_batches
from w2w.pretrained import with_encoders
from w2w.train import build as build_cluit
from w2w.train_config import TrainConfig

STARTS = {"convert_from": 0.05, "back_translate_from": 0.2, "adversary_from": 0.5}
"""Fractions of a wave-to-wave run at which conversion, back-translation and the discriminator start. Presets
of long runs start the discriminator earlier; short runs lack intelligibility rather than sound quality."""
FINAL_RATE = 0.05
"""Final learning rate as a fraction of the peak."""
SAVES = 10
"""Number of checkpoints written during a run; only the newest is kept."""


def run_loop(loop: LoopConfig, folder: Path, steps: int, *, processor: bool = True) -> LoopConfig:
    """Loop config of a run; with ``processor``, on one CPU thread."""
    place: dict[str, Any] = {"cpu": True, "threads": 1, "workers": 0} if processor else {}
    every = max(steps // SAVES, 1)
    return replace(loop, out=folder, steps=steps, save_every=every, sample_every=0, keep=1, **place)


def fitted(optim: OptimConfig, steps: int) -> OptimConfig:
    """Shorten the warm-up to at most a tenth of the run and let the decay take the rest."""
    warmup = min(optim.warmup_steps, steps // 10)
    return replace(optim, warmup_steps=warmup, hold_steps=0, decay_steps=max(steps - warmup, 1))


def decaying(optim: OptimConfig, steps: int) -> OptimConfig:
    """As ``fitted``, with a cosine decay in place of a preset's constant rate, as short runs need one."""
    return fitted(replace(optim, schedule="cosine", final=FINAL_RATE), steps)


@lru_cache(maxsize=1)
def _speech_and_pairs(data: DataConfig, pairs: PairConfig, seed: int) -> Batches[Any]:
    """Cached for runs on the same data, as reading a large corpus takes minutes."""
    return batches_together(data, pairs, seed)


def wave_to_wave(config: TrainConfig, folder: Path, steps: int, *, processor: bool = True) -> Training:
    begins = {name: round(share * steps) for name, share in STARTS.items()}
    config = replace(
        config,
        loop=run_loop(config.loop, folder, steps, processor=processor),
        cluit=replace(config.cluit, **begins),
        converter=with_encoders(config.converter, config.pretrained),
        optim_converter=fitted(config.optim_converter, steps),
    )
    phases = []
    for start, end in pairwise([*sorted({0, *begins.values()}), steps]):
        period = config.cluit.discriminator_every if start >= config.cluit.adversary_from else 1
        phases.append(Phase(share=(end - start) / steps, step=start, period=period))
    return Training(
        config=config,
        batches=_speech_and_pairs(config.data, config.pairs, config.loop.seed),
        build=lambda: build_cluit(config),
        phases=phases,
    )


def cluit_mel(config: cluit_mel_trainer.CluitMelTrainConfig, folder: Path, steps: int) -> Training:
    """CLUIT on mels with decaying learning rates; every n-th step has a gradient penalty."""
    config = replace(
        config,
        loop=run_loop(config.loop, folder, steps),
        optim_generator=decaying(config.optim_generator, steps),
        optim_critic=decaying(config.optim_critic, steps),
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
    """StarGAN with the loop and learning rates of its config; every step updates both players."""
    config = stargan_trainer.completed(config)
    net, parts = config.stargan, config.task.critic_updates
    crops = labelled_batches(config.data, config.loop, net.spectrogram, net.labels, n_parts=parts)
    return Training(config=config, batches=crops, build=lambda: stargan_trainer.build(config))


def vocoder(config: Any, folder: Path, steps: int, *, lr: float, adversary_from: float) -> Training:
    """Vocoder fine-tuning at a decaying rate ``lr``, with discriminators after a fraction of the run."""
    players = {"generator": config.task.generator, "critic": config.task.critic}
    rates = {name: decaying(replace(optim, lr=lr), steps) for name, optim in players.items()}
    begins = round(adversary_from * steps)
    task = replace(config.task, adversary_from=begins, **rates)
    config = replace(config, loop=run_loop(config.loop, folder, steps), task=task)
    return Training(
        config=config,
        batches=vocoder_trainer.crops(config, 0, 1),
        build=lambda: vocoder_trainer.build(config, []),
        phases=[Phase(share=adversary_from), Phase(share=1.0 - adversary_from, step=begins)],
        export=export_run,
    )
