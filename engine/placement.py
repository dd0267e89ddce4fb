"""Moving what a data loader yields to the device, whatever holds the tensors."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor


def to_device(batch: Any, device: torch.device) -> Any:
    """Move the tensors of a batch: a tensor, or a dataclass, mapping or tuple of such."""
    match batch:
        case Tensor():
            return batch.to(device, non_blocking=True)
        case Mapping():
            return {key: to_device(value, device) for key, value in batch.items()}
        case tuple() if hasattr(batch, "_fields"):
            return type(batch)(*(to_device(value, device) for value in batch))
        case tuple() | list():
            return type(batch)(to_device(value, device) for value in batch)
        case _ if is_dataclass(batch) and not isinstance(batch, type):
            return replace(
                batch, **{f.name: to_device(getattr(batch, f.name), device) for f in fields(batch)}
            )
        case _:
            return batch
