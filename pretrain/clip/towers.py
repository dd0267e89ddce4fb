"""Frozen image and text towers of CLIP, loaded with open_clip, with unit-length embeddings."""

import hashlib
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from engine.user_error import UserError, nearest

FOLDER_CONFIG = "open_clip_config.json"
"""File name of the configuration in a folder for open_clip."""
HUB = "hf-hub:"
HUB_SECONDS = 10
"""Timeout of the hub in seconds."""
OWN_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".npz", ".npy")
BATCH = 256
"""Images or sentences embedded at once."""

Pictures = UInt8[Tensor, "n 3 height width"]


@dataclass(frozen=True, kw_only=True)
class TowersConfig:
    """The CLIP model."""

    name: str = "ViT-B-32"
    """An architecture of open_clip, ``hf-hub:owner/name``, or a folder (open_clip_config.json, weights)."""
    pretrained: str = "openai"
    """open_clip's tag of an architecture's pretrained weights, or a weights file; otherwise ignored."""


class Towers(nn.Module):
    """CLIP's two towers, frozen: parameters have no gradient and ``train()`` has no effect.

    Gradients do pass through ``embed`` to the pixels.
    """

    def __init__(self, clip: nn.Module, tokenizer: Any, *, title: str) -> None:
        super().__init__()
        self.clip, self.tokenizer, self.title = clip, tokenizer, title
        self.requires_grad_(False)
        super().train(False)
        settings: Any = clip.visual.preprocess_cfg  # pyright: ignore[reportAttributeAccessIssue]
        size = settings["size"]
        self.height, self.width = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
        self.resize_mode, self.interpolation = settings["resize_mode"], settings["interpolation"]
        self.fill = settings.get("fill_color", 0)
        for name in ("mean", "std"):
            values = torch.tensor([float(value) for value in settings[name]])
            self.register_buffer(name, values[:, None, None], persistent=False)
        self.key = _key(self)
        """Digest of weights and preprocessing: equal keys give equal embeddings."""
        self.dim = self.embed(torch.zeros(1, 3, self.height, self.width)).shape[-1]

    @property
    def picture_size(self) -> int:
        """Shorter side of the image tower's input, in pixels."""
        return min(self.height, self.width)

    @property
    def device(self) -> torch.device:
        return next(self.clip.parameters()).device

    def train(self, mode: bool = True) -> "Towers":
        return self

    @torch.no_grad()
    def images(self, pictures: Pictures) -> Float[Tensor, "n dim"]:
        """Return unit-length embeddings of images of any size, after the model's preprocessing."""
        if not len(pictures):
            return torch.zeros(0, self.dim, device=self.device)
        parts = (self.prepare(part).to(self.device).float() / 255 for part in pictures.split(BATCH))
        return torch.cat([self.embed(part) for part in parts])

    @torch.no_grad()
    def texts(self, texts: list[str]) -> Float[Tensor, "n dim"]:
        """Return unit-length embeddings of sentences."""
        parts = [texts[start : start + BATCH] for start in range(0, len(texts), BATCH)]
        embeddings = [self.clip.encode_text(self.tokenizer(part).to(self.device)) for part in parts]  # pyright: ignore
        if not parts:
            return torch.zeros(0, self.dim, device=self.device)
        return F.normalize(torch.cat(embeddings).float(), dim=-1)

    def prepare(self, pictures: Pictures) -> UInt8[Tensor, "n 3 own_height own_width"]:
        """Resize and crop (or squash, or pad) to the image tower's input size."""
        from torchvision.transforms import InterpolationMode
        from torchvision.transforms.v2 import functional as pixels

        how = InterpolationMode(self.interpolation if self.interpolation != "random" else "bicubic")
        height, width = pictures.shape[-2:]
        if (height, width) == (self.height, self.width):
            return pictures
        if self.resize_mode == "squash":
            return pixels.resize(pictures, [self.height, self.width], interpolation=how, antialias=True)
        ratios = self.height / height, self.width / width
        ratio = min(ratios) if self.resize_mode == "longest" else max(ratios)
        # Rounded down as torchvision does for the longer side, but not below the crop's size.
        sides = (height, self.height), (width, self.width)
        if ratio == max(ratios):
            inner = [max(goal, int(side * ratio)) for side, goal in sides]
        else:
            inner = [max(1, round(side * ratio)) for side, _ in sides]
        resized = pixels.resize(pictures, inner, interpolation=how, antialias=True)
        if self.resize_mode == "longest":
            above, left = (self.height - inner[0]) // 2, (self.width - inner[1]) // 2
            below, right = self.height - inner[0] - above, self.width - inner[1] - left
            fill = float(self.fill if isinstance(self.fill, int | float) else self.fill[0])
            return pixels.pad(resized, [left, above, right, below], fill=fill)
        return pixels.center_crop(resized, [self.height, self.width])

    def embed(self, pixels: Float[Tensor, "n 3 own_height own_width"]) -> Float[Tensor, "n dim"]:
        """Return unit-length embeddings of pixels in [0, 1] at the input size; gradients reach the pixels."""
        return F.normalize(self.clip.encode_image((pixels - self.mean) / self.std).float(), dim=-1)  # pyright: ignore

    def embed_resized(self, pixels: Float[Tensor, "n 3 height width"]) -> Float[Tensor, "n dim"]:
        """Embed pixels in [0, 1] of any size, which are stretched to the input size; gradients reach them."""
        if pixels.shape[-2:] != (self.height, self.width):
            pixels = F.interpolate(pixels, (self.height, self.width), mode="bilinear", antialias=True)
        return self.embed(pixels)


def open_towers(config: TowersConfig = TowersConfig()) -> Towers:
    import open_clip

    name, options = _source(config)
    for copies in (True, False):
        with _quietly(local=copies):
            try:
                clip = open_clip.create_model(name, require_pretrained=True, **options)
                return Towers(clip, open_clip.get_tokenizer(name), title=_title(config))
            except Exception as error:  # of the hub, torch or open_clip, without a common class
                problem = error
        if copies and (_is_here(config) or not hub_answers()):
            break
    raise _loading_error(config, problem, online=not copies) from None


def _title(config: TowersConfig) -> str:
    is_folder = Path(config.name).is_dir() or config.name.startswith(HUB)
    return config.name if is_folder else f"{config.name} {config.pretrained}"


def _is_here(config: TowersConfig) -> bool:
    """Whether the config names local weights, so that no download is needed."""
    on_hub = config.name.startswith(HUB)
    return Path(config.name).is_dir() or (not on_hub and Path(config.pretrained).is_file())


def _source(config: TowersConfig) -> tuple[str, dict[str, Any]]:
    """Return open_clip's model name and options; raise an error for unknown ones before loading."""
    import open_clip

    folder = Path(config.name)
    if folder.is_dir():
        if not (folder / FOLDER_CONFIG).is_file():
            raise UserError(f"{folder} has no {FOLDER_CONFIG}: give a folder written by open_clip")
        if not any(file.suffix in OWN_WEIGHTS for file in folder.iterdir()):
            raise UserError(f"{folder} has no weights next to {FOLDER_CONFIG} (open_clip_model.safetensors)")
        return f"local-dir:{folder}", {}
    if config.name.startswith(HUB):
        return config.name, {}
    known = open_clip.list_models()
    if config.name not in known:
        raise UserError(
            f"there is no folder {config.name} and open_clip has no model of that name"
            f"{nearest(config.name, known)}: `open_clip.list_models()` lists them"
        )
    options: dict[str, Any] = {"pretrained": config.pretrained}
    if tag := open_clip.get_pretrained_cfg(config.name, config.pretrained):
        # Where tag and architecture differ in this, open_clip only warns, and embeddings would be wrong.
        return config.name, options | {"force_quick_gelu": tag.get("quick_gelu", False)}
    if Path(config.pretrained).is_file():
        return config.name, options
    tags = open_clip.list_pretrained_tags_by_model(config.name)
    raise UserError(
        f"{config.pretrained!r} is neither a file of weights nor a tag of {config.name}"
        f" (it has {', '.join(tags) or 'none'})"
    )


def _loading_error(config: TowersConfig, error: Exception, online: bool) -> UserError:
    reason = " ".join(str(error).split())[:160].rstrip(".")
    if "weights_only" in reason:  # torch's advice to turn it off is unsafe for a file from elsewhere
        reason = "it is not a file of tensors"
    if _is_here(config):
        where = config.name if Path(config.name).is_dir() else config.pretrained
        return UserError(f"{where} has no weights for {config.name} that open_clip can read: {reason}")
    if online:
        return UserError(f"the weights of {_title(config)} cannot be loaded: {reason}")
    return UserError(
        f"the weights of {_title(config)} are not on this machine and the hub does not answer: download them"
        f" once where there is a network, or name a folder with {FOLDER_CONFIG} and weights instead"
    )


def _key(towers: Towers) -> str:
    """Return a digest of everything that determines an embedding except the library's code."""
    clip = towers.clip
    settings = clip.visual.preprocess_cfg  # pyright: ignore[reportAttributeAccessIssue]
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    digest.update(str(clip).encode())  # layers and activations: QuickGELU has no weights
    for name, tensor in sorted(clip.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(memoryview(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()))
    return digest.hexdigest()[:16]


@contextmanager
def _quietly(*, local: bool) -> Iterator[None]:
    """Silence the libraries, as ``_loading_error`` says the same in one line, and with ``local`` restrict
    them to their cache: with an unreachable hub they would wait for most of a minute per file."""
    from huggingface_hub import constants

    offline = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = offline or local
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
        constants.HF_HUB_OFFLINE = offline


def hub_answers() -> bool:
    """Whether the hub can be reached and may be used."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        HfApi().model_info("openai/clip-vit-base-patch32", timeout=HUB_SECONDS)
    except HfHubHTTPError as error:  # a refusal is an answer too, but not a gateway's 5xx
        return error.response is not None and error.response.status_code < 500
    except Exception:  # no network, no name server, a proxy that refuses, HF_HUB_OFFLINE
        return False
    return True
