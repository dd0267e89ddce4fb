"""Checkpoints, which are folders written atomically with one file per module, and exports for inference."""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from jaxtyping import Shaped
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from engine.config import load_config, save_config
from engine.files import atomic
from engine.user_error import UserError

C = TypeVar("C")
N = TypeVar("N", bound=nn.Module)
Tensors = Mapping[str, Shaped[Tensor, "..."]]
Modules = Mapping[str, nn.Module]


def save_weights(tensors: nn.Module | Tensors, path: Path) -> None:
    state = tensors.state_dict() if isinstance(tensors, nn.Module) else tensors
    # Cloned, because safetensors refuses tensors that share memory.
    save_file({k: v.detach().cpu().clone().contiguous() for k, v in state.items()}, path)
    # safetensors makes its files readable only for their owner; apply the umask as for any other file.
    mask = os.umask(0)
    os.umask(mask)
    path.chmod(0o666 & ~mask)


def weights_digest(module: nn.Module, about: str = "") -> str:
    """A 16-digit hexadecimal hash of the weights, their names and shapes, and ``about``."""
    digest = hashlib.sha256(about.encode())
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(memoryview(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()))
    return digest.hexdigest()[:16]


def load_weights(path: Path | str) -> dict[str, Tensor]:
    """Read a safetensors file; pickled weights are refused, because opening them can run any code."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"there is no weights file {path}")
    try:
        return load_file(path)
    except (SafetensorError, OSError):
        if is_pickle(path):
            raise UserError(
                f"{path} is a pickled checkpoint, which is never opened, since that can run any code: "
                "export it to safetensors"
            ) from None
        raise UserError(f"{path} is damaged or truncated: copy or download it again") from None


def is_pickle(path: Path) -> bool:
    """Return whether a file begins like one of ``torch.save``: a ZIP archive, or a bare pickle."""
    with path.open("rb") as file:
        return file.read(2).startswith((b"PK", b"\x80"))


def fill(module: nn.Module, state: Tensors, where: Path | str) -> None:
    """Load a state dict strictly; the error names the first missing, unknown, misshapen or NaN tensor."""
    expected, other = module.state_dict(), "it was made for another configuration"
    for name, tensor in expected.items():
        if name not in state:
            raise UserError(f"{where} lacks the tensor {name}: {other}")
        if state[name].shape != tensor.shape:
            shapes = f"{tuple(state[name].shape)} instead of {tuple(tensor.shape)}"
            raise UserError(f"{where}: tensor {name} has shape {shapes}: {other}")
        if bool(state[name].isnan().any()):
            again = "use an earlier checkpoint, or download it again"
            raise UserError(f"{where} holds NaN in the tensor {name}: {again}")
    for name in state:
        if name not in expected:
            raise UserError(f"{where} has an unknown tensor {name}: {other}")
    module.load_state_dict(dict(state))


def draft_folder(out: Path, step: int) -> Path:
    """Make the temporary folder in which a checkpoint is written before ``publish`` renames it."""
    folder = out / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    clear_drafts(out)
    draft = folder / f".step_{step:08d}.tmp"
    draft.mkdir()
    return draft


def clear_drafts(out: Path) -> None:
    """Remove checkpoints that a killed run left half written or half deleted."""
    for draft in (out / "checkpoints").glob(".step_*.tmp"):
        shutil.rmtree(draft)


def save_checkpoint(
    draft: Path, modules: Modules, players: Mapping[str, Any], config: Any, progress: Mapping[str, Any]
) -> None:
    """Write everything that a run needs to resume into a draft folder."""
    for name, module in modules.items():
        save_weights(module, draft / f"{name}.safetensors")
    torch.save({name: player.state_dict() for name, player in players.items()}, draft / "optimizers.pt")
    save_config(config, draft / "config.json")
    (draft / "progress.json").write_text(json.dumps(dict(progress), indent=2) + "\n")


def publish(draft: Path, keep: int) -> Path:
    """Rename a finished draft atomically, and delete all but the newest ``keep`` checkpoints."""
    for path in [*draft.iterdir(), draft]:
        _flush(path)
    final = draft.with_name(draft.name.removeprefix(".").removesuffix(".tmp"))
    if final.exists():  # damaged by hand, since a run writes each step only once
        _remove(final)
    os.replace(draft, final)
    _flush(final.parent)
    for old in checkpoints(final.parent.parent)[: -max(keep, 1)]:
        _remove(old)
    return final


def _remove(folder: Path) -> None:
    """Rename a checkpoint before deleting it, so that a partial one never has a checkpoint's name."""
    draft = folder.with_name(f".{folder.name}.old.tmp")
    os.replace(folder, draft)
    shutil.rmtree(draft)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def checkpoints(out: Path) -> list[Path]:
    """List the complete checkpoints of a run, oldest first."""
    found = (p for p in (out / "checkpoints").glob("step_*") if re.fullmatch(r"step_\d{8,}", p.name))
    return sorted((p for p in found if (p / "progress.json").is_file()), key=lambda p: int(p.name[5:]))


def newest_checkpoint(out: Path) -> Path | None:
    """Return the checkpoint that a run resumes from, if there is one."""
    return (checkpoints(out) or [None])[-1]


@contextmanager
def older_on_error(folder: Path) -> Iterator[None]:
    """Extend errors about a damaged checkpoint by the older one from which the run can resume."""
    try:
        yield
    except UserError as error:
        older = [path for path in checkpoints(folder.parent.parent) if path != folder]
        way = f"delete {folder} to continue from {older[-1].name}" if older else "no older one is left"
        raise UserError(f"{error} ({way})") from None


def load_checkpoint(folder: Path, modules: Modules, players: Mapping[str, Any]) -> dict[str, Any]:
    """Load modules and players from a checkpoint and return its progress."""
    for name, module in modules.items():
        path = folder / f"{name}.safetensors"
        fill(module, load_weights(path), path)
    try:
        states = torch.load(folder / "optimizers.pt", weights_only=True, map_location="cpu")
    except Exception as error:
        raise UserError(f"cannot read {folder / 'optimizers.pt'}: {error}") from None
    for name, player in players.items():
        if name not in states:
            raise UserError(f"{folder / 'optimizers.pt'} has no player {name}: it belongs to another task")
        player.load_state_dict(states[name])
    return read_progress(folder)


def read_progress(folder: Path) -> dict[str, Any]:
    """Read a checkpoint's progress: its step and what else was stored with it."""
    try:
        progress = json.loads((folder / "progress.json").read_text())
        return progress | {"step": int(progress["step"])}
    except (ValueError, TypeError, KeyError):
        raise UserError(f"{folder / 'progress.json'} is damaged: it does not contain the step") from None


def export(folder: Path | str, config: Any, state: nn.Module | Tensors) -> Path:
    """Write ``config.json`` and ``model.safetensors``, all that inference needs."""
    folder = Path(folder)
    tensors = state.state_dict() if isinstance(state, nn.Module) else state
    bad = next((name for name, tensor in tensors.items() if bool(tensor.isnan().any())), None)
    if bad is not None:
        raise UserError(f"{folder} was not exported: {bad} holds NaN, so training has diverged")
    with atomic(folder / "model.safetensors") as temporary:
        save_weights(state, temporary)
    save_config(config, folder / "config.json")
    return folder


def load_export(folder: Path | str, cls: type[C]) -> tuple[C, dict[str, Tensor]]:
    """Read an exported folder: the config, and the state dict for ``fill``."""
    folder = Path(folder)
    if folder.is_file():
        kind = "a pickled checkpoint" if is_pickle(folder) else "a file"
        raise UserError(f"{folder} is {kind}: give the folder with config.json and model.safetensors")
    if not (folder / "config.json").is_file():
        raise UserError(f"there is no exported model in {folder}: config.json is missing")
    return load_config(cls, folder / "config.json"), load_weights(folder / "model.safetensors")


def load_network(folder: Path | str, cls: type[C], build: Callable[[C], N]) -> N:
    """Build an exported network in evaluation mode from its folder, or from the run that exported it."""
    folder = Path(folder)
    if (folder / "export" / "config.json").is_file():
        folder = folder / "export"
    config, state = load_export(folder, cls)
    network = build(config)
    fill(network, state, folder / "model.safetensors")
    return network.eval()
