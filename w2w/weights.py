"""Find and read a converter's weights: in a folder, a training run, on the hub, or in this package."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from engine.checkpoint import checkpoints, fill, load_export, load_weights, newest_checkpoint
from engine.config import from_json, stored_kind
from engine.hub import HUB, hint, repository
from engine.user_error import UserError
from w2w.networks.config import ConverterConfig

RELEASED = Path(__file__).parent / "released"
"""Released weights for converting files."""
RELEASED_LIVE = Path(__file__).parent / "released_live"
"""Released weights for live speech, with less look-ahead."""
PICKLED = (".pt", ".pth", ".bin", ".ckpt", ".pkl")
HUB_SECONDS = 10
"""Timeout of the hub in seconds, after which local copies are used."""


def weights_folder(where: str | Path | None = None) -> Path:
    """Resolve a folder, run or hub name to the folder of config.json and model.safetensors.

    ``released``, the default, and ``released_live`` are in the package; folders of these names precede them.
    """
    folder = Path(where or "released")
    packaged = {"released": RELEASED, "released_live": RELEASED_LIVE}.get(str(folder))
    if packaged is not None and (where is None or not folder.exists()):
        if not (packaged / "config.json").is_file():
            raise UserError("no weights come with this copy: give a trained converter by --checkpoint FOLDER")
        return packaged
    if (name := repository(str(where))) is not None:
        return _from_hub(name)
    if not folder.exists():
        raise UserError(f"there is no folder {where}: check the name{hint(str(where))}")
    if not folder.is_dir():
        return folder  # reading it raises an error that names the kind of file
    if (folder / "export" / "config.json").is_file() and checkpoints(folder):
        return folder / "export"
    if checkpoints(folder):
        raise UserError(
            f"{folder} is a training run that is not exported yet: run `python -m w2w.export {folder}` first"
        )
    if folder.parent.name == "checkpoints" and (folder / "progress.json").is_file():
        run = folder.parent.parent
        raise UserError(
            f"{folder} is a training checkpoint: run `python -m w2w.export {run}` and give {run}/export"
        )
    pickled = sorted(file.name for file in folder.iterdir() if file.suffix in PICKLED)
    if pickled and not (folder / "model.safetensors").is_file():
        raise UserError(
            f"{folder} holds pickled weights ({pickled[0]}), which are never opened, since that can run any"
            " code: export them to model.safetensors"
        )
    return folder


def is_mel_converter(folder: Path) -> bool:
    """Whether a folder's config is that of a converter of mels; False if it cannot be read."""
    return stored_kind(folder) == "mel_converter"


def _from_hub(name: str) -> Path:
    """The local copy of a hub repository's converter."""
    from huggingface_hub import HfApi

    from w2w.publish import download

    offline = False
    try:  # a single attempt: the download itself would retry for most of a minute
        HfApi().model_info(name, timeout=HUB_SECONDS)
    except Exception:
        offline = True
    try:
        return download(name, local_files_only=offline)
    except UserError:
        raise
    except Exception as error:  # the hub's errors have no common base class
        raise UserError(
            f"{HUB}{name} cannot be downloaded: check the name, or the network ({type(error).__name__})"
        ) from None


def run_checkpoint(run: Path) -> Path:
    checkpoint = newest_checkpoint(run)
    if checkpoint is None:
        raise UserError(f"{run} holds no checkpoint of a run: give the folder that --loop.out named")
    return checkpoint


def begin_from(modules: Mapping[str, nn.Module], run: Path, *, without: Sequence[str] = ()) -> None:
    """Fill networks from another run's newest checkpoint, except those in ``without``.

    A converter in it may lack the F0 tracker, whose present weights then stay.
    """
    checkpoint = run_checkpoint(run)
    for name, module in modules.items():
        if name not in without:
            path = checkpoint / f"{name}.safetensors"
            fill(module, pitch_tracker(module) | load_weights(path), path)


def pitch_tracker(module: nn.Module) -> dict[str, Tensor]:
    """The weights of a network's F0 tracker, for stored weights without one."""
    return {name: value for name, value in module.state_dict().items() if name.startswith("style.pitch.")}


def load_converter(folder: Path) -> tuple[ConverterConfig, dict[str, Tensor]]:
    """Read an exported converter of any version; return its config and weights."""
    try:
        stored = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError):
        stored = None  # `load_export` raises the error
    if not (isinstance(stored, dict) and ("frame_ms" in stored or "n_mels" in stored)):
        return load_export(folder, ConverterConfig)
    path = folder / "config.json"
    config = from_json(ConverterConfig, json.dumps(upgraded_config(stored)), str(path))
    state = load_weights(folder / "model.safetensors")
    if "decoder.ask.weight" not in state:
        raise UserError(f"{folder / 'model.safetensors'} does not hold the converter of {path}")
    return config, upgraded_state(state, config.content.dim)


RENAMED = {
    "decoder.ask.": "decoder.token_query.",
    "decoder.whole.": "decoder.voice_summary.",
    "decoder.tint.": "decoder.style_bias.",
    "usual_pitch.": "mean_log_f0.",
}
"""Prefixes of such a converter's parameter names, from old to new."""


def upgraded_config(config: dict[str, Any]) -> dict[str, Any]:
    """Upgrade the config of a converter from before levels were relative.

    It has neither refiner nor pitch predictor.
    """
    content, decoder = dict(config.get("content", {})), dict(config.get("decoder", {}))
    gone = {
        "content.frontend": content.pop("frontend", "mel"),
        "decoder.head": decoder.pop("head", "harmonic"),
        "decoder.norm": decoder.pop("norm", "film"),
    }
    for (name, value), supported in zip(gone.items(), (("mel", "pretrained"), ("harmonic",), ("film",))):
        if value not in supported:
            raise UserError(f"this converter has {name} {value!r}, no longer supported: train it again")
    trunk, layer = content.pop("trunk", None), content.pop("trunk_layer", 0)
    earlier = {"n_channels": 176, "n_blocks": 6, "dim": 12, "time_constant": 200.0} | content
    fixed = {"kernel": 5, "dilations": [1, 2, 4], "relative_level": False}
    sizes = {"hop_ms": "frame_ms", "window_ms": "window_ms", "n_mels": "n_mels"}
    fixed |= {now: config[then] for now, then in sizes.items() if then in config}
    unchanged = ("sample_rate", "look_ahead_ms", "pitch_memory_s", "style")
    same = {name: config[name] for name in unchanged if name in config}
    return same | {
        "pitch_predictor": False,
        "content": earlier | fixed,
        "trunk": trunk and trunk | {"layer": layer},
        "decoder": {"n_channels": 224, "n_blocks": 8} | decoder | {"refiner": None},
    }


def upgraded_state(state: dict[str, Tensor], content_dim: int) -> dict[str, Tensor]:
    """Rename parameters and rescale the decoder's stem: codes had unit length, now mean square 1."""
    renamed = {}
    for name, tensor in state.items():
        for then, now in RENAMED.items():
            if name.startswith(then):
                name = now + name.removeprefix(then)
        renamed[name] = tensor
    stem = renamed["decoder.stem.weight"].clone()
    stem[:, :content_dim] /= math.sqrt(content_dim)
    return renamed | {"decoder.stem.weight": stem}
