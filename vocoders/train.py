"""Train a vocoder: ``accelerate launch vocoders/train.py --preset NAME --data.path FOLDER --loop.out RUN``.

Run the same command again to continue. Presets are in ``vocoders/tasks/presets.py``: every network at 16,
22.05 and 24 kHz, and ``*_small`` for a CPU. To tune a trained vocoder to mels that another network predicts
(``python -m w2w.baselines.predict``), give ``--init RUN --predicted-mels FOLDER``. ``--init`` also
takes the folder of an exported vocoder, or ``released``, the one of this package; critics then begin afresh.
"""

import warnings
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from data.audio import AudioError, excerpt
from data.batches import Batches, SpeechCrops, batches, split_rows
from engine import loop as loops
from engine.checkpoint import newest_checkpoint
from engine.config import cli
from engine.loop import Task, accelerator, fit
from engine.user_error import UserError, exits_cleanly
from vocoders.tasks.adversarial import Adversarial, AdversarialConfig
from vocoders.tasks.config import TrainConfig
from vocoders.tasks.export import export_run, speaks_of_itself
from vocoders.tasks.initial import begin_from, check_fit, exported_init
from vocoders.tasks.predicted_mels import PredictedMels
from vocoders.tasks.presets import PRESETS
from vocoders.tasks.waveglow import WaveGlowTask, WaveGlowTaskConfig
from vocoders.tasks.wavenet import WaveNetTask, WaveNetTaskConfig

Wave = Float[Tensor, "1 1 samples"]


def build(config: TrainConfig, validation: list[Wave]) -> Task:
    """The task of a config."""
    match config.task:
        case AdversarialConfig():
            task = Adversarial(config.task, config.mel, validation)
        case WaveGlowTaskConfig():
            task = WaveGlowTask(config.task, config.mel, validation)
        case WaveNetTaskConfig():
            task = WaveNetTask(config.task, config.mel, validation)
    if config.init and not newest_checkpoint(config.loop.out):
        begin_from(task.modules, config)
    return task


def validation_waves(config: TrainConfig) -> list[Wave]:
    """Recordings to be scored and heard: of the validation split, or without one the last of training."""
    try:
        rows = split_rows(config.data.path, "validation")
    except UserError:
        rows = split_rows(config.data.path, config.data.split)
    every = max(len(rows) // max(config.n_validation, 1), 1)
    rate = config.mel.sample_rate
    n_samples = round(config.validation_seconds * config.mel.frame_rate) * config.mel.hop
    waves = []
    for row in rows[::every][: config.n_validation]:
        try:
            wave = excerpt(row.path, 0, n_samples, rate)
        except AudioError as error:
            warnings.warn(f"not scored: {error}", stacklevel=2)
            continue
        whole = wave.shape[-1] // config.mel.hop * config.mel.hop
        if whole >= config.mel.n_fft:
            waves.append(wave[..., :whole])
    return waves


def crops(config: TrainConfig, rank: int, n_ranks: int) -> loops.Batches:
    """Batches by step: of recordings, or of recordings and predicted mels."""
    loop = config.loop
    if not config.predicted_mels:
        return batches(config.data, loop.seed, loop.workers, rank, n_ranks, loop.accumulate)
    pairs = PredictedMels(config.data, config.mel, Path(config.predicted_mels), progress=rank == 0)
    return Batches(pairs, seed=loop.seed, workers=loop.workers, rank=rank, accumulate=loop.accumulate)


@exits_cleanly
def main() -> None:
    """Train, or continue; leave the vocoder for use in ``export`` beside the checkpoints."""
    config = cli(PRESETS)
    here = accelerator(config.loop)
    source = crops(config, here.process_index, here.num_processes)
    if isinstance(source, Batches) and isinstance(source.crops, SpeechCrops):
        config.check_speakers(len(source.crops.speakers))
    waves = validation_waves(config)
    folder = exported_init(config.init)
    if folder and here.is_main_process and not newest_checkpoint(config.loop.out):
        check_fit(folder, config)
        print(f"beginning from the vocoder {config.init}; its critics were not exported and begin afresh")
    fit(lambda: build(config, waves), source, config.loop, full_config=config)
    if here.is_main_process and not speaks_of_itself(config):
        print(f"exported to {export_run(config.loop.out, config.loop.out / 'export')}")


if __name__ == "__main__":
    main()
