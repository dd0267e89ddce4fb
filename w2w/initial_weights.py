"""What a training run begins with in place of random weights: another run's networks, or an export."""

from pathlib import Path

from torch import Tensor, nn

from engine.checkpoint import fill, load_weights, newest_checkpoint
from engine.user_error import UserError
from w2w.cluit.task import CLUIT
from w2w.earlier_format import load_converter
from w2w.weights import weights_folder


def begin_from(task: CLUIT, where: str) -> None:
    """Fill the networks from another run's newest checkpoint, or from an export; banks begin empty."""
    folder = Path(where)
    if where == "released" or (folder / "model.safetensors").is_file():
        folder = weights_folder(None if where == "released" else folder)
        _, state = load_converter(folder)
        for module in (task.converter, task.converter_ema.module):
            fill(module, pitch_tracker(module) | state, folder / "model.safetensors")
        return
    checkpoint = newest_checkpoint(folder)
    if checkpoint is None:
        raise UserError(
            f"init={where} holds neither a checkpoint of a run nor an exported converter: give the folder"
            " that --loop.out named, or one with config.json and model.safetensors"
        )
    for name, module in task.modules.items():
        if name not in ("bank", "voices", "balancer"):
            path = checkpoint / f"{name}.safetensors"
            fill(module, pitch_tracker(module) | load_weights(path), path)


def pitch_tracker(module: nn.Module) -> dict[str, Tensor]:
    """The weights of a network's F0 tracker, for states that hold none."""
    return {name: value for name, value in module.state_dict().items() if name.startswith("style.pitch.")}
