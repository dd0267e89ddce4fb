"""Train a vocoder: ``accelerate launch vocoders/train.py --preset NAME --data.path FOLDER --loop.out RUN``.

The same command resumes an interrupted run. Presets are in ``vocoders/tasks/presets.py``: every network at
16, 22.05 and 24 kHz, and ``*_small`` for a CPU. To fine-tune a trained vocoder on mels predicted by another
network (``python -m w2w.baselines.predict``), give ``--init RUN --predicted-mels FOLDER``. ``--init`` also
takes the folder of an exported vocoder or the name of a packaged one (``released``, ``released_24k``,
``released_hifigan``); the discriminators then start from random weights.
"""

import warnings
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from jaxtyping import Float
from torch import Tensor, nn

from data.audio import AudioError, excerpt
from data.batches import Batches, batches
from data.recordings import end_training
from data.rows import names_shards, split_rows
from data.shards import first_rows
from engine import loop as loops
from engine.checkpoint import checkpoints, fill, load_weights, newest_checkpoint
from engine.config import cli, differences, load_config
from engine.loop import Task, accelerator, fit
from engine.user_error import UserError, exits_cleanly
from vocoders import loading
from vocoders.griffin_lim import GriffinLimConfig
from vocoders.mel_files import check_definition
from vocoders.tasks.adversarial import Adversarial, AdversarialConfig
from vocoders.tasks.config import TrainConfig, export_run, speaks_of_itself
from vocoders.tasks.magnitudes import MagnitudesTask, MagnitudesTaskConfig
from vocoders.tasks.predicted_mels import PredictedMels
from vocoders.tasks.presets import PRESETS
from vocoders.tasks.waveglow import WaveGlowTask, WaveGlowTaskConfig
from vocoders.tasks.wavenet import WaveNetTask, WaveNetTaskConfig
from vocoders.vocoder import VocoderConfig
from vocoders.weight_norm import unfold


def exported_init(init: str) -> Path | None:
    """The folder of the exported or packaged vocoder given as ``init``, None for a training run."""
    if (released := loading.released_folder(init)) is not None and not Path(init).exists():
        return released
    folder = Path(init) if init else None
    return folder if folder and (folder / "config.json").is_file() and not checkpoints(folder) else None


def begin_from(modules: Mapping[str, nn.Module], config: TrainConfig) -> None:
    """Initialise the networks from a run's newest checkpoint, or the generator from an exported vocoder.

    Networks without stored weights keep theirs.
    """
    averaged = False
    if (exported := exported_init(config.init)) is not None:
        check_fit(exported, config)
        unfold(loading.from_folder(exported).network, modules["network"])
    elif (folder := newest_checkpoint(Path(config.init))) is not None:
        for name, module in modules.items():
            if (path := folder / f"{name}.safetensors").exists():
                fill(module, load_weights(path), path)
                averaged = averaged or name == "network_ema"
    else:
        raise UserError(
            f"init={config.init} holds neither a checkpoint of a run nor an exported vocoder: give the folder"
            " of a run (its --loop.out) or of an export, or the word released"
        )
    if "network_ema" in modules and not averaged:
        modules["network_ema"].load_state_dict(modules["network"].state_dict())


def check_fit(folder: Path, config: TrainConfig) -> None:
    """Refuse weights of another network or mel definition, or with gain or pre-emphasis (unsupported)."""
    exported = load_config(VocoderConfig, folder / "config.json")
    if isinstance(exported.network, GriffinLimConfig):
        raise UserError(f"init={config.init} is Griffin-Lim, which has no weights to start training from")
    check_definition(config.mel, exported.mel, f"the training mel for init={config.init}")
    for name, theirs, ours in differences(exported.network, config.task.network):
        raise UserError(
            f"init={config.init} is a {type(exported.network).__name__} with {name or 'kind'} "
            f"{theirs if name else type(theirs).__name__}, not {ours if name else type(ours).__name__}: use "
            "the preset that it was trained with, or set task.network"
        )
    if exported.gain != 1.0 or exported.pre_emphasis:
        raise UserError(
            f"init={config.init} has gain={exported.gain} and pre_emphasis={exported.pre_emphasis}, which "
            "training does not support: start from a run instead"
        )


Wave = Float[Tensor, "1 1 samples"]


def build(config: TrainConfig, validation: list[Wave]) -> Task:
    match config.task:
        case AdversarialConfig():
            task = Adversarial(config.task, config.mel, validation)
        case MagnitudesTaskConfig():
            task = MagnitudesTask(config.task, config.mel, validation)
        case WaveGlowTaskConfig():
            task = WaveGlowTask(config.task, config.mel, validation)
        case WaveNetTaskConfig():
            task = WaveNetTask(config.task, config.mel, validation)
    if config.init and not newest_checkpoint(config.loop.out):
        begin_from(task.modules, config)
    return task


def validation_waves(config: TrainConfig) -> list[Wave]:
    """Validation recordings, evenly spaced in the validation split, or in the training split without one."""
    data, mel, waves = config.data, config.mel, []
    with TemporaryDirectory() as folder:
        rows_of = partial(first_rows, folder=Path(folder)) if names_shards(data.path) else split_rows
        try:
            rows = rows_of(data.path, "validation")
        except UserError:
            rows = rows_of(data.path, data.split)
        every = max(len(rows) // max(config.n_validation, 1), 1)
        n_samples = round(config.validation_seconds * mel.frame_rate) * mel.hop
        for row in rows[::every][: config.n_validation]:
            try:
                wave = excerpt(row.path, 0, n_samples, mel.sample_rate)
            except AudioError as error:
                warnings.warn(f"not scored: {error}", stacklevel=2)
                continue
            whole = wave.shape[-1] // mel.hop * mel.hop
            if whole >= mel.n_fft:
                waves.append(wave[..., :whole])
    return waves


def crops(config: TrainConfig, rank: int, n_ranks: int) -> loops.Batches:
    """Training batches by step: crops of recordings, or of pairs of recordings and predicted mels."""
    loop = config.loop
    if not config.predicted_mels:
        return batches(config.data, loop.seed, loop.workers, rank, n_ranks, loop.accumulate)
    pairs = PredictedMels(config.data, config.mel, Path(config.predicted_mels), progress=rank == 0)
    return Batches(pairs, seed=loop.seed, workers=loop.workers, rank=rank, accumulate=loop.accumulate)


@exits_cleanly
def main() -> None:
    """Train or resume; the trained vocoder is exported to the run's folder ``export``."""
    config = cli(PRESETS)
    here = accelerator(config.loop)
    source = crops(config, here.process_index, here.num_processes)
    if isinstance(source, Batches) and hasattr(source.crops, "speakers"):
        config.check_speakers(len(source.crops.speakers))
    waves = validation_waves(config)
    folder = exported_init(config.init)
    if folder and here.is_main_process and not newest_checkpoint(config.loop.out):
        check_fit(folder, config)
        print(f"starting from the exported vocoder {config.init}; its discriminators begin afresh")
    fit(lambda: build(config, waves), source, config.loop, full_config=config)
    if here.is_main_process and not speaks_of_itself(config):
        print(f"exported to {export_run(config.loop.out, config.loop.out / 'export')}")
    end_training(getattr(source, "crops", source))


if __name__ == "__main__":
    main()
