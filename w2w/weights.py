"""Where a converter's weights lie: in a folder, in a training run, on the hub, or in this package."""

from pathlib import Path

from engine.checkpoint import checkpoints
from engine.config import stored_kind
from engine.hub import HUB, hint, repository
from engine.user_error import UserError

RELEASED = Path(__file__).parent / "released"
"""Weights that come with the package."""
PICKLED = (".pt", ".pth", ".bin", ".ckpt", ".pkl")
HUB_SECONDS = 10
"""How long the hub may take to answer before its local copies must do."""


def weights_folder(where: str | Path | None = None) -> Path:
    """Find the folder of config.json and model.safetensors that is meant; by default ``released``."""
    if where is None or (str(where) == "released" and not Path(where).exists()):
        if not (RELEASED / "config.json").is_file():
            raise UserError("no weights come with this copy: give a trained converter by --checkpoint FOLDER")
        return RELEASED
    folder = Path(where)
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
