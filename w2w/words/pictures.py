"""Pictures as CLIP's image tower takes them: files decoded, tensors checked."""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from engine.user_error import UserError

Picture = UInt8[Tensor, "3 height width"]
MOST_PIXELS = 100_000_000


def read_picture(picture: str | Path | Tensor) -> Picture:
    """A picture from a file, or a uint8 tensor (3, height, width), perhaps with a batch of one before it."""
    if isinstance(picture, Tensor):
        return _checked(picture)
    from PIL import Image

    path = Path(picture)
    if not path.exists():
        raise UserError(f"there is no picture {path}")
    if path.is_dir():
        raise UserError(f"{path} is a folder where a picture is expected")
    try:
        with Image.open(path) as image:
            if image.width * image.height > MOST_PIXELS:
                raise UserError(f"{path} has {image.width}x{image.height} pixels: scale it down first")
            pixels = np.asarray(image.convert("RGB"))
    except UserError:
        raise
    except Exception:  # Pillow's many ways to say no
        raise UserError(f"{path} is not a picture that can be read: give a PNG or JPEG file") from None
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1).contiguous()


def _checked(picture: Tensor) -> Picture:
    if picture.ndim == 4 and len(picture) == 1:
        picture = picture[0]
    if picture.ndim != 3 or picture.shape[0] != 3 or picture.dtype != torch.uint8 or not picture.numel():
        raise UserError(
            f"a picture of shape {tuple(picture.shape)} and {picture.dtype} was given; it must be uint8 of"
            " shape (3, height, width)"
        )
    return picture
