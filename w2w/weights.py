"""A converter's weights: in a folder, in a training run, on the hub, or in this package; and reading them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor, nn

from engine.checkpoint import checkpoints, fill, load_export, load_weights, newest_checkpoint
from engine.config import from_json, stored_kind
from engine.hub import HUB, hint, repository
from engine.user_error import UserError
from w2w.networks.config import ConverterConfig

RELEASED = Path(__file__).parent / "released"
"""Weights that come with the package: for files."""
RELEASED_LIVE = Path(__file__).parent / "released_live"
"""Those for live speech, whose codes hear less of the future."""
PICKLED = (".pt", ".pth", ".bin", ".ckpt", ".pkl")
HUB_SECONDS = 10
"""How long the hub may take to answer before its local copies must do."""


def weights_folder(where: str | Path | None = None) -> Path:
    """Find the folder of config.json and model.safetensors that is meant.

    ``released``, the default, and ``released_live`` come with the package; a folder so called comes first.
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
        return folder  # refused when it is read, which knows what kind of file it is
    if (folder / "export" / "config.json").is_file() and checkpoints(folder):
        return folder / "export"
    if checkpoints(folder):
        raise UserError(
            f"{folder} is a training run that is not exported yet: run `python -m w2w.export {folder}` first"
        )
    if folder.parent.name == "checkpoints" and (folder / "progress.json").is_file():
        run = folder.parent.parent
        raise UserError(
            f"{folder} is for training on: run `python -m w2w.export {run}` and give {run}/export"
        )
    pickled = sorted(file.name for file in folder.iterdir() if file.suffix in PICKLED)
    if pickled and not (folder / "model.safetensors").is_file():
        raise UserError(
            f"{folder} holds pickled weights ({pickled[0]}), which are never opened, since that can run "
            "anything: export them to model.safetensors"
        )
    return folder


def is_mel_converter(folder: Path) -> bool:
    """Whether a folder's config is that of a converter of mels; one that cannot be read says no."""
    return stored_kind(folder) == "mel_converter"


def _from_hub(name: str) -> Path:
    """The local copy of a hub repository's converter."""
    from huggingface_hub import HfApi

    from w2w.publish import download

    offline = False
    try:  # once: the download itself would try for most of a minute
        HfApi().model_info(name, timeout=HUB_SECONDS)
    except Exception:
        offline = True
    try:
        return download(name, local_files_only=offline)
    except UserError:
        raise
    except Exception as error:  # the hub's many ways to say no
        raise UserError(
            f"{HUB}{name} cannot be had: check the name, or the network ({type(error).__name__})"
        ) from None


def run_checkpoint(run: Path) -> Path:
    checkpoint = newest_checkpoint(run)
    if checkpoint is None:
        raise UserError(f"{run} holds no checkpoint of a run: give the folder that --loop.out named")
    return checkpoint


def begin_from(modules: Mapping[str, nn.Module], run: Path, *, without: Sequence[str] = ()) -> None:
    """Fill networks from another run's newest checkpoint, but for those ``without``."""
    checkpoint = run_checkpoint(run)
    for name, module in modules.items():
        if name not in without:
            path = checkpoint / f"{name}.safetensors"
            fill(module, load_weights(path), path)


def load_converter(folder: Path) -> tuple[ConverterConfig, dict[str, Tensor]]:
    """Read an exported converter, of whatever time: its config and the state to fill a network with."""
    try:
        stored = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError):
        stored = None  # `load_export` says what is wrong with it
    if not (isinstance(stored, dict) and ("frame_ms" in stored or "n_mels" in stored)):
        return load_export(folder, ConverterConfig)
    from w2w.earlier import upgraded_config, upgraded_state

    path = folder / "config.json"
    config = from_json(ConverterConfig, json.dumps(upgraded_config(stored)), str(path))
    state = load_weights(folder / "model.safetensors")
    if "decoder.ask.weight" not in state:
        raise UserError(f"{folder / 'model.safetensors'} does not hold the converter of {path}")
    return config, upgraded_state(state, config.content.dim)
