"""What training begins from: a run, or a vocoder for use, its folded weights back under weight norm."""

from collections.abc import Mapping
from pathlib import Path

from torch import nn

from engine.checkpoint import checkpoints, fill, load_export, load_weights, newest_checkpoint
from engine.config import differences, load_config
from engine.user_error import UserError
from vocoders import loading
from vocoders.griffin_lim import GriffinLimConfig
from vocoders.mel_files import check_definition
from vocoders.tasks.config import TrainConfig
from vocoders.vocoder import VocoderConfig, build_network
from vocoders.weight_norm import unfold


def exported_init(init: str) -> Path | None:
    """The folder of an exported vocoder that ``init`` names, if it does: a run is none."""
    if init == "released" and not Path(init).exists():
        return loading.RELEASED
    folder = Path(init) if init else None
    return folder if folder and (folder / "config.json").is_file() and not checkpoints(folder) else None


def begin_from(modules: Mapping[str, nn.Module], config: TrainConfig) -> None:
    """Fill the networks from a run's newest checkpoint, or the generator from an exported vocoder.

    What is not found there stays as it is.
    """
    averaged = False
    if (exported := exported_init(config.init)) is not None:
        check_fit(exported, config)
        vocoder, state = load_export(exported, VocoderConfig)
        folded = build_network(vocoder).fold()
        fill(folded, state, exported / "model.safetensors")
        unfold(folded, modules["network"])
    elif (folder := newest_checkpoint(Path(config.init))) is not None:
        for name, module in modules.items():
            if (path := folder / f"{name}.safetensors").exists():
                fill(module, load_weights(path), path)
                averaged = averaged or name == "network_ema"
    else:
        raise UserError(
            f"init={config.init} holds neither a checkpoint of a run nor an exported vocoder: give the folder"
            " that --loop.out named, an export, or the word released"
        )
    if "network_ema" in modules and not averaged:
        modules["network_ema"].load_state_dict(modules["network"].state_dict())


def check_fit(folder: Path, config: TrainConfig) -> None:
    """Refuse weights for another network or other mels, and what training does not know of."""
    exported = load_config(VocoderConfig, folder / "config.json")
    if isinstance(exported.network, GriffinLimConfig):
        raise UserError(f"init={config.init} is Griffin-Lim, which has no weights to train on from")
    check_definition(config.mel, exported.mel, f"what init={config.init} is to be trained on")
    for name, theirs, ours in differences(exported.network, config.task.network):
        raise UserError(
            f"init={config.init} is a {type(exported.network).__name__} whose {name or 'kind'} is "
            f"{theirs if name else type(theirs).__name__}, not {ours if name else type(ours).__name__}: take "
            "the preset that it was trained by, or set task.network"
        )
    if exported.gain != 1.0 or exported.pre_emphasis:
        raise UserError(
            f"init={config.init} has gain={exported.gain} and pre_emphasis={exported.pre_emphasis}, which "
            "training does not know: train from a run instead"
        )
