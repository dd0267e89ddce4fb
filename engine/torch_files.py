"""Reading of third-party PyTorch checkpoints without executing any code in them."""

import pickle
import re
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import torch

from engine.checkpoint import is_pickle, load_weights
from engine.user_error import UserError

WRAPPERS = ("generator", "state_dict", "model", "model_g")
"""Keys under which training code stores the state dict of the generator."""


def read_torch_file(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint, a safetensors file or a PyTorch file, without executing any code in it."""
    path = Path(path)
    if not path.exists():
        raise UserError(f"there is no weights file {path}")
    if path.suffix == ".safetensors":
        return load_weights(path)
    try:
        with torch.serialization.safe_globals([Namespace]):  # training options, which contain no code
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types for damaged files
        raise UserError(_refusal(path, error)) from None
    if not isinstance(content, dict):
        raise UserError(
            f"{path} holds a {type(content).__name__}, not a checkpoint: a state dict is expected"
        )
    return content


def _refusal(path: Path, error: Exception) -> str:
    found = re.search(r"GLOBAL ([\w.]+)", str(error)) if isinstance(error, pickle.UnpicklingError) else None
    if found is None:
        whole = "not a whole" if path.is_file() and is_pickle(path) else "no"
        again = "it is damaged, truncated or of another kind; download or save it again"
        return f"{path} is {whole} PyTorch checkpoint: {again}"
    module = found[1].rpartition(".")[0].split(".")[0]  # Python's own functions have none
    if not module or module in sys.stdlib_module_names:
        return (
            f"{path} would run {found[1]} when it is opened, which no weights need: do not open it, and"
            " download them from a source that you trust"
        )
    saved, keys = path.with_name(f"{path.stem}_state.pt").name, repr(WRAPPERS)
    return (
        f"{path} holds a pickled object ({found[1]}), which is never opened, since that can run any code: "
        'inside the repository that wrote it, run once `python -c "import torch; c = torch.load('
        f"'{path.name}', map_location='cpu', weights_only=False); "
        f"c = next((c[k] for k in {keys} if isinstance(c, dict) and k in c), c); c = c.state_dict() if "
        "hasattr(c, 'state_dict') else c; torch.save({k: v for k, v in c.items() if torch.is_tensor(v)}, "
        f"'{saved}')\"` and give {saved}"
    )
