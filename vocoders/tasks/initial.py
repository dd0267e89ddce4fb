"""Training on from a vocoder for use: its folded weights put back under weight norm."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from torch.nn.utils import parametrize

from engine.checkpoint import checkpoints, fill, load_export
from engine.config import differences, load_config
from engine.user_error import UserError
from vocoders import loading
from vocoders.griffin_lim import GriffinLimConfig
from vocoders.mel_files import check_definition
from vocoders.tasks.config import TrainConfig
from vocoders.vocoder import VocoderConfig, build_network


def exported_init(init: str) -> Path | None:
    """The folder of an exported vocoder that ``init`` names, if it does: a run is none."""
    if init == "released" and not Path(init).exists():
        return loading.RELEASED
    folder = Path(init) if init else None
    return folder if folder and (folder / "config.json").is_file() and not checkpoints(folder) else None


def begin_from_export(modules: Mapping[str, nn.Module], folder: Path, config: TrainConfig) -> None:
    """Fill the generator, and its average, from an exported vocoder of the same network and mel."""
    check_fit(folder, config)
    exported, state = load_export(folder, VocoderConfig)
    folded = build_network(exported).fold()
    fill(folded, state, folder / "model.safetensors")
    unfold(folded, modules["network"])
    if "network_ema" in modules:
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


@torch.no_grad()
def unfold(folded: nn.Module, network: nn.Module) -> None:
    """Fill a network under weight norm with what gives it the outputs of its folded twin."""
    plain = dict(folded.state_dict())
    for name, module in network.named_modules():
        if parametrize.is_parametrized(module, "weight"):
            cast(Any, module).weight = plain.pop(f"{name}.weight")
    network.load_state_dict({**network.state_dict(), **plain})
