"""Frozen image and text towers by open_clip: pictures and sentences in, unit-length embeddings out."""

import difflib
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

from engine.user_error import UserError

FOLDER_CONFIG = "open_clip_config.json"
"""What makes a folder one that open_clip can read."""
HUB = "hf-hub:"
HUB_SECONDS = 10
"""Time limit of the hub's answer."""
OWN_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".npz", ".npy")
BATCH = 256
"""Pictures or sentences that pass through a tower at once."""


@dataclass(frozen=True, kw_only=True)
class TowersConfig:
    """Which CLIP is the teacher."""

    name: str = "ViT-B-32"
    """An architecture of open_clip, ``hf-hub:owner/name``, or a folder (open_clip_config.json, weights)."""
    pretrained: str = "openai"
    """A tag that open_clip knows for the architecture, or a file of weights; folders have their own."""


class Towers(nn.Module):
    """CLIP's two towers, which never learn: no parameter asks for a gradient and ``train()`` has no effect.

    Gradients do pass through ``embed`` to pixels that ask for them.
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
        """Names these weights and their preprocessing: equal keys give equal embeddings."""
        self.dim = self.embed(torch.zeros(1, 3, self.height, self.width)).shape[-1]

    @property
    def picture_size(self) -> int:
        """Pixels of the shorter side of what the image tower sees."""
        return min(self.height, self.width)

    @property
    def device(self) -> torch.device:
        return next(self.clip.parameters()).device

    def train(self, mode: bool = True) -> "Towers":
        return self

    @torch.no_grad()
    def images(self, pictures: UInt8[Tensor, "n 3 height width"]) -> Float[Tensor, "n dim"]:
        """Unit-length embeddings of pictures of any size, prepared as the model wants them."""
        if not len(pictures):
            return torch.zeros(0, self.dim, device=self.device)
        return torch.cat(
            [self.embed(self.prepare(part).to(self.device).float() / 255) for part in pictures.split(BATCH)]
        )

    @torch.no_grad()
    def texts(self, texts: list[str]) -> Float[Tensor, "n dim"]:
        """Unit-length embeddings of sentences."""
        parts = [texts[start : start + BATCH] for start in range(0, len(texts), BATCH)]
        embeddings = [self.clip.encode_text(self.tokenizer(part).to(self.device)) for part in parts]  # pyright: ignore
        if not parts:
            return torch.zeros(0, self.dim, device=self.device)
        return F.normalize(torch.cat(embeddings).float(), dim=-1)

    def prepare(
        self, pictures: UInt8[Tensor, "n 3 height width"]
    ) -> UInt8[Tensor, "n 3 own_height own_width"]:
        """Resize and crop (or squash, or pad) to the size the image tower sees."""
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
        # Rounded down as torchvision does for the longer side, but never under what the crop needs.
        inner = [
            max(goal, int(side * ratio)) if ratio == max(ratios) else max(1, round(side * ratio))
            for side, goal in ((height, self.height), (width, self.width))
        ]
        resized = pixels.resize(pictures, inner, interpolation=how, antialias=True)
        if self.resize_mode == "longest":
            above, left = (self.height - inner[0]) // 2, (self.width - inner[1]) // 2
            below, right = self.height - inner[0] - above, self.width - inner[1] - left
            fill = float(self.fill if isinstance(self.fill, int | float) else self.fill[0])
            return pixels.pad(resized, [left, above, right, below], fill=fill)
        return pixels.center_crop(resized, [self.height, self.width])

    def embed(self, pixels: Float[Tensor, "n 3 own_height own_width"]) -> Float[Tensor, "n dim"]:
        """Unit-length embeddings of pixels in [0, 1] at the tower's own size; gradients reach the pixels."""
        return F.normalize(self.clip.encode_image((pixels - self.mean) / self.std).float(), dim=-1)  # pyright: ignore


def open_towers(config: TowersConfig = TowersConfig()) -> Towers:
    import open_clip

    name, options = _source(config)
    for copies in (True, False):
        with warnings.catch_warnings(), _quiet(), local_copies_only(copies):
            warnings.simplefilter("ignore")
            try:
                clip = open_clip.create_model(name, require_pretrained=True, **options)
                return Towers(clip, open_clip.get_tokenizer(name), title=_title(config))
            except Exception as error:  # of the hub, torch or open_clip, without a common class
                problem = error
        if copies and (_is_here(config) or not hub_answers()):
            break
    raise _refusal(config, problem, online=not copies) from None


def _title(config: TowersConfig) -> str:
    is_folder = Path(config.name).is_dir() or config.name.startswith(HUB)
    return config.name if is_folder else f"{config.name} {config.pretrained}"


def _is_here(config: TowersConfig) -> bool:
    """Return whether the config names weights on this machine, so that the network could not help."""
    return Path(config.name).is_dir() or (
        not config.name.startswith(HUB) and Path(config.pretrained).is_file()
    )


def _source(config: TowersConfig) -> tuple[str, dict[str, Any]]:
    """Return open_clip's name of the model and its options; refuse unknown ones before anything is loaded."""
    import open_clip

    folder = Path(config.name)
    if folder.is_dir():
        if not (folder / FOLDER_CONFIG).is_file():
            raise UserError(f"{folder} holds no {FOLDER_CONFIG}: give a folder that open_clip wrote")
        if not any(file.suffix in OWN_WEIGHTS for file in folder.iterdir()):
            raise UserError(f"{folder} holds no weights beside {FOLDER_CONFIG} (open_clip_model.safetensors)")
        return f"local-dir:{folder}", {}
    if config.name.startswith(HUB):
        return config.name, {}
    known = open_clip.list_models()
    if config.name not in known:
        near = difflib.get_close_matches(config.name, known, n=1)
        hint = f", did you mean {near[0]}?" if near else ""
        raise UserError(
            f"there is no folder {config.name} and open_clip knows no model of that name{hint or ';'}"
            " (`open_clip.list_models()` lists them)"
        )
    tag = open_clip.get_pretrained_cfg(config.name, config.pretrained)
    if tag:
        # open_clip only warns where tag and architecture differ in this, and would embed differently.
        return config.name, {
            "pretrained": config.pretrained,
            "force_quick_gelu": tag.get("quick_gelu", False),
        }
    if Path(config.pretrained).is_file():
        return config.name, {"pretrained": config.pretrained}
    tags = open_clip.list_pretrained_tags_by_model(config.name)
    raise UserError(
        f"{config.pretrained!r} is neither a file of weights nor a tag of {config.name}"
        f" (it has {', '.join(tags) or 'none'})"
    )


def _refusal(config: TowersConfig, error: Exception, online: bool) -> UserError:
    reason = " ".join(str(error).split())[:160].rstrip(".")
    if "weights_only" in reason:  # torch's advice on it is not for a file that somebody else made
        reason = "it is not a file of tensors"
    if _is_here(config):
        where = config.name if Path(config.name).is_dir() else config.pretrained
        return UserError(f"{where} does not hold weights for {config.name} that open_clip can read: {reason}")
    if online:
        return UserError(f"the weights of {_title(config)} cannot be loaded: {reason}")
    return UserError(
        f"the weights of {_title(config)} are not on this machine and the hub does not answer: download them"
        f" once where there is a network, or name a folder with {FOLDER_CONFIG} and weights instead"
    )


def _key(towers: Towers) -> str:
    """Return a digest of everything that determines an embedding but the library's own code."""
    clip = towers.clip
    settings = clip.visual.preprocess_cfg  # pyright: ignore[reportAttributeAccessIssue]
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    digest.update(str(clip).encode())  # layers and activations: QuickGELU has no weights
    for name, tensor in sorted(clip.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(memoryview(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()))
    return digest.hexdigest()[:16]


@contextmanager
def local_copies_only(only: bool = True) -> Iterator[None]:
    """Let the hub's libraries use their copies on this machine and nothing else.

    They would otherwise try an unreachable hub for most of a minute per file.
    """
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or only
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def hub_answers() -> bool:
    """Return whether the hub can be reached and may be used."""
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        HfApi().model_info("openai/clip-vit-base-patch32", timeout=HUB_SECONDS)
    except OfflineModeIsEnabled:
        return False
    except HfHubHTTPError as error:  # it answered, be it with a no; a gateway's 5xx is no answer
        return error.response is not None and error.response.status_code < 500
    except Exception:  # no network, no name server, a proxy that refuses
        return False
    return True


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the library's log, which says in ten lines what ``_refusal`` says in one."""
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
