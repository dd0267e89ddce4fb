"""Find and read a converter's weights: in a folder, a training run, on the hub, or in this package."""

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
    """Fill networks from another run's newest checkpoint, except those in ``without``."""
    checkpoint = run_checkpoint(run)
    for name, module in modules.items():
        if name not in without:
            path = checkpoint / f"{name}.safetensors"
            fill(module, load_weights(path), path)


def load_converter(folder: Path) -> tuple[ConverterConfig, dict[str, Tensor]]:
    """Read an exported converter of any version; return its config and weights."""
    try:
        stored = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError):
        stored = None  # `load_export` raises the error
    if not (isinstance(stored, dict) and ("frame_ms" in stored or "n_mels" in stored)):
        return load_export(folder, ConverterConfig)
    from w2w.earlier import upgraded_config, upgraded_state

    path = folder / "config.json"
    config = from_json(ConverterConfig, json.dumps(upgraded_config(stored)), str(path))
    state = load_weights(folder / "model.safetensors")
    if "decoder.ask.weight" not in state:
        raise UserError(f"{folder / 'model.safetensors'} does not hold the converter of {path}")
    return config, upgraded_state(state, config.content.dim)
