"""A small CLIP trained from scratch on images and captions, and saved in open_clip's format.

clip = train_small_clip(pictures, captions, groups, SmallCLIPConfig(), LoopConfig(out=Path("runs/clip")))
save_small_clip(clip, "clip")  # open_clip.create_model("local-dir:clip"), TowersConfig(name="clip")
"""

import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from torch.utils.data import Dataset

from data.batches import Address, Batches
from engine.checkpoint import save_weights
from engine.files import write_json
from engine.loop import LoopConfig, accelerator, addressing, fit
from engine.optim import OptimConfig, Player
from engine.user_error import UserError

PAD, START, END, UNKNOWN = SPECIAL = ("<pad>", "<start>", "<end>", "<unk>")
MEAN = STD = 0.5
"""Mean and standard deviation that normalise pixels from [0, 1] to [−1, 1]."""


@dataclass(frozen=True, kw_only=True)
class SmallCLIPConfig:
    """A CLIP of about a million parameters: a ResNet with attention pooling, and a short transformer."""

    dim: int = 128
    """Channels of the joint embedding space."""
    picture_size: int = 64
    """Width and height of images in pixels; a multiple of 32, as the ResNet halves it five times."""
    picture_width: int = 16
    """Channels after the ResNet's stem; a multiple of 2."""
    picture_blocks: tuple[int, int, int, int] = (1, 1, 1, 1)
    """Bottleneck blocks at each of four resolutions."""
    text_width: int = 128
    text_layers: int = 2
    text_heads: int = 4
    context_length: int = 24
    """Maximum number of tokens of a caption, including start and end; longer ones are truncated."""
    vocabulary: int = 1000
    """Maximum vocabulary size of the byte-pair tokeniser, which is trained on the captions."""
    batch: int = 256
    """Pairs per batch; the negatives of a pair are the others of the batch."""
    optim: OptimConfig = field(
        default_factory=lambda: OptimConfig(
            lr=2e-3,
            betas=(0.9, 0.98),
            weight_decay=0.05,
            warmup_steps=40,
            schedule="cosine",
            decay_steps=360,
            gradient_clip=1.0,
        )
    )

    def __post_init__(self) -> None:
        if self.picture_size % 32 or self.picture_width % 2:
            size, width = self.picture_size, self.picture_width
            raise UserError(
                f"picture_size={size} must be a multiple of 32 and picture_width={width} a multiple of 2"
            )
        if self.text_width % self.text_heads:
            heads = self.text_heads
            raise UserError(f"text_width={self.text_width} must be a multiple of text_heads={heads}")


@dataclass(frozen=True, kw_only=True)
class SmallCLIPRun:
    """The configuration stored with a run."""

    model: SmallCLIPConfig
    loop: LoopConfig


class Pairs(NamedTuple):
    """A batch of images and the tokens of their captions."""

    picture: UInt8[Tensor, "batch 3 height width"]
    tokens: Int[Tensor, "batch context"]


class PicturesAndCaptions(Dataset[Pairs]):
    """Batches of pairs by address, with at most one row of each group (paraphrases of one caption)."""

    def __init__(
        self,
        pictures: UInt8[Tensor, "n 3 height width"],
        tokens: Int[Tensor, "n context"],
        groups: Sequence[int] | np.ndarray,
        batch: int,
    ) -> None:
        self.pictures, self.tokens = pictures, tokens
        order = np.argsort(groups, kind="stable")
        self.rows = np.split(order, np.flatnonzero(np.diff(np.asarray(groups)[order])) + 1)
        """Row indices of each group."""
        self.batch = min(batch, len(self.rows))

    def __getitem__(self, address: Address) -> Pairs:
        rng = np.random.default_rng(list(address))
        chosen = rng.choice(len(self.rows), self.batch, replace=False)
        rows = torch.tensor([int(rng.choice(self.rows[group])) for group in chosen])
        return Pairs(self.pictures[rows], self.tokens[rows])


class SmallCLIP(nn.Module):
    """open_clip's CLIP with the configured sizes, and its tokeniser."""

    def __init__(self, config: SmallCLIPConfig, tokeniser: Any) -> None:
        super().__init__()
        from open_clip import CLIP

        self.config, self.tokeniser = config, tokeniser
        self.clip = CLIP(**open_clip_sizes(config, tokeniser.get_vocab_size()))
        # A third faster on a CPU for convolutions with few channels.
        self.clip.visual.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def images(self, pictures: UInt8[Tensor, "n 3 height width"]) -> Float[Tensor, "n dim"]:
        return self.clip.encode_image((pictures.float() / 255 - MEAN) / STD, normalize=True)

    def texts(self, captions: Sequence[str]) -> Float[Tensor, "n dim"]:
        tokens = tokens_of(self.tokeniser, captions).to(self.clip.logit_scale.device)
        return self.clip.encode_text(tokens, normalize=True)


class SmallCLIPTraining:
    """The training task: CLIP's symmetric contrastive loss between images and captions."""

    def __init__(self, config: SmallCLIPConfig, tokeniser: Any) -> None:
        self.clip = SmallCLIP(config, tokeniser)
        self.players = {"clip": Player(self.clip, config.optim, "clip")}
        self.modules: dict[str, nn.Module] = {"clip": self.clip}

    def update(self, batch: Pairs, step: int) -> Mapping[str, Tensor]:
        self.clip.train()
        model = self.clip.clip
        images = self.clip.images(batch.picture)
        texts = model.encode_text(batch.tokens, normalize=True)
        logits = model.logit_scale.exp() * images @ texts.T
        label = torch.arange(len(logits), device=logits.device)
        loss = (F.cross_entropy(logits, label) + F.cross_entropy(logits.T, label)) / 2
        self.players["clip"].step(loss)
        with torch.no_grad():
            model.logit_scale.clamp_(max=float(np.log(100)))
            accuracy = (logits.argmax(1) == label).float().mean()
        return {"loss/clip/pairs": loss, "batch/found": accuracy, "clip/scale": model.logit_scale.exp()}


def train_small_clip(
    pictures: UInt8[Tensor, "n 3 height width"],
    captions: Sequence[str],
    groups: Sequence[int] | np.ndarray,
    config: SmallCLIPConfig,
    loop: LoopConfig,
) -> SmallCLIP:
    """Train from scratch, or resume from the newest checkpoint in ``loop.out``; the result is frozen.

    Rows with equal ``groups`` are variants of one pair. The weights depend only on the arguments, not on
    interruptions.
    """
    if pictures.shape[-2:] != (config.picture_size, config.picture_size):
        height, width = pictures.shape[-2:]
        raise UserError(f"pictures of {height}x{width} do not fit picture_size={config.picture_size}")
    tokeniser = train_tokeniser(captions, config)
    pairs = PicturesAndCaptions(pictures, tokens_of(tokeniser, captions), groups, config.batch)
    source = Batches(pairs, **addressing(loop, accelerator(loop)))
    run = SmallCLIPRun(model=config, loop=loop)
    training, _ = fit(lambda: SmallCLIPTraining(config, tokeniser), source, loop, full_config=run)
    return training.clip.eval().requires_grad_(False)


def train_tokeniser(captions: Iterable[str], config: SmallCLIPConfig) -> Any:
    """Train a byte-pair tokeniser; frequent words become single tokens, unknown ones split into letters."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

    tokeniser = Tokenizer(models.BPE(unk_token=UNKNOWN))
    tokeniser.normalizer = normalizers.Lowercase()  # pyright: ignore[reportAttributeAccessIssue]
    tokeniser.pre_tokenizer = pre_tokenizers.Whitespace()  # pyright: ignore[reportAttributeAccessIssue]
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocabulary,
        special_tokens=list(SPECIAL),
        initial_alphabet=list(string.ascii_lowercase + string.digits + string.punctuation),
        show_progress=False,
    )
    tokeniser.train_from_iterator(captions, trainer)
    marks = [(mark, tokeniser.token_to_id(mark)) for mark in (START, END)]
    tokeniser.post_processor = processors.TemplateProcessing(  # pyright: ignore[reportAttributeAccessIssue]
        single=f"{START} $A {END}", special_tokens=marks
    )
    tokeniser.enable_truncation(config.context_length)
    tokeniser.enable_padding(length=config.context_length, pad_token=PAD)
    return tokeniser


def tokens_of(tokeniser: Any, captions: Sequence[str]) -> Int[Tensor, "n context"]:
    """Return the same tokens as open_clip's tokeniser for the saved folder."""
    return torch.tensor([coded.ids for coded in tokeniser.encode_batch(list(captions))])


def open_clip_sizes(config: SmallCLIPConfig, n_tokens: int) -> dict[str, Any]:
    vision = {
        "image_size": config.picture_size,
        "layers": list(config.picture_blocks),
        "width": config.picture_width,
        "head_width": 64,
    }
    text = {
        "context_length": config.context_length,
        "vocab_size": n_tokens,
        "width": config.text_width,
        "heads": config.text_heads,
        "layers": config.text_layers,
        "pool_type": "eos",
        "eos_id": SPECIAL.index(END),
        "hf_tokenizer_name": "local-dir",  # any name makes open_clip look into the model's own folder
    }
    return {"embed_dim": config.dim, "vision_cfg": vision, "text_cfg": text}


def save_small_clip(clip: SmallCLIP, folder: Path | str, *, half: bool = False) -> Path:
    """Write config, weights and tokeniser for open_clip's ``local-dir:``; ``half``: weights in float16."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    size, tokeniser = clip.config.picture_size, clip.tokeniser
    settings = {
        "model_cfg": open_clip_sizes(clip.config, tokeniser.get_vocab_size()),
        "preprocess_cfg": {
            "size": [size, size],
            "mean": [MEAN] * 3,
            "std": [STD] * 3,
            "interpolation": "bilinear",
            "resize_mode": "squash",
        },
    }
    tokeniser.save(str(folder / "tokenizer.json"))
    about = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": START, "eos_token": END}
    about |= {"pad_token": PAD, "unk_token": UNKNOWN}
    write_json(folder / "tokenizer_config.json", about)
    state = clip.clip.state_dict()
    state = {k: v.half() if half and v.is_floating_point() else v for k, v in state.items()}
    save_weights(state, folder / "open_clip_model.safetensors")
    write_json(folder / "open_clip_config.json", settings)
    return folder
