"""The common parts of all probes: command-line options, encoders, and embeddings of recordings."""

import argparse
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from data.audio import load, unreadable
from engine.arguments import Arguments
from engine.outcome import end
from engine.user_error import UserError
from pretrain.probe.embedders import NAMES, Embedder, open_embedders
from pretrain.probe.results import Result, report, results_of

SHARED: dict[str, dict[str, Any]] = {
    "--label": {"default": "", "help": "column of the labels (label, labels, category or class)"},
    "--split": {"default": "", "help": "clips of this split only (all)"},
    "--seeds": {"type": int, "default": 3, "help": "training runs to average (%(default)s)"},
    "--no-random": {"action": "store_true", "help": "omit the baseline with random weights"},
    "--towers": {"default": "", "help": "open_clip model, its local folder, or words[:FILE]"},
    "--pretrained": {"default": "openai", "help": "open_clip weights or a file (openai)"},
}
"""Options of several tasks."""
T = TypeVar("T", bound=Hashable)
Read = Callable[[T, int], Tensor]
"""A function from an item and a sample rate to its wave."""


class Probe(NamedTuple):
    """One task of ``python -m pretrain.probe``."""

    name: str
    about: str | None
    """Description for ``--help``."""
    run: Callable[[argparse.Namespace], list[Result]]
    options: Mapping[str, dict[str, Any]] = {}
    """The task's own options, with arguments of ``add_argument`` that add to those in ``SHARED``."""
    data: str = ""
    """Default of ``--data``; empty: the option is required."""
    encoders: str = NAMES
    """Description of the values of ``--encoder``."""

    def __call__(self, argv: Sequence[str] | None = None) -> list[Result]:
        parser = Arguments.described_by(f"pretrain.probe {self.name}", self.about)
        add = parser.add_argument
        add("--encoder", action="append", default=[], help=f"{self.encoders}; repeat for columns")
        add("--data", default=self.data, required=not self.data, help="manifest or folder")
        add("--out", type=Path, default=Path("runs/probe"), help="output folder (runs/probe)")
        add("--crop-s", type=float, default=10.0, help="maximum length of a crop, in seconds (10)")
        add("--batch", type=int, default=8, help="crops per batch (8)")
        add("--device", default="auto", help="auto, cpu or cuda")
        for name, settings in self.options.items():
            add(name, **SHARED.get(name, {}) | settings)
        args = parser.parse_args(argv)
        args.device = device_of(args.device)
        for name in ("batch", "seeds", "crop_s"):
            if getattr(args, name, 1) <= 0:
                raise UserError(f"--{name.replace('_', '-')} {getattr(args, name)} must be above 0")
        args.left_out = []
        args.rows = partial(results_of, task=self.name, data=Path(args.data).name)
        results = self.run(args)
        report(results, args.out)
        if args.left_out:
            end(args.n_used, args.left_out, "recordings used")
        return results


def readable(recordings: Sequence[Any], args: argparse.Namespace) -> list[Any]:
    """Return the recordings whose ``path`` can be read; the others are listed at the end of the run."""
    bad = unreadable((one.path for one in recordings), args.left_out)
    usable = [one for one in recordings if one.path not in bad]
    args.n_used = len(usable)
    if recordings and not usable:
        raise UserError(args.left_out[0])
    return usable


def embedders_of(args: argparse.Namespace, default: str = "logmel") -> list[Embedder]:
    """Open the encoders of ``--encoder``; in tasks with ``--no-random``, without it also a random one."""
    names = args.encoder or [default]
    if not getattr(args, "no_random", True) and not any(name.startswith("random") for name in names):
        names = [*names, "random"]
    return open_embedders(names, device=args.device)


class Embeddings:
    """Cached embeddings of recordings by one encoder.

    A recording longer than ``crop_s`` seconds is split into crops of equal length; its vector is the mean
    over the crops, its frames are concatenated.
    """

    def __init__(self, embedder: Embedder, *, crop_s: float = 10.0, batch: int = 8) -> None:
        self.embedder, self.batch = embedder, batch
        self.crop_samples = max(1, round(crop_s * embedder.sample_rate))
        self._vectors: dict[Any, Tensor] = {}

    def of(self, items: Sequence[T], read: Read[T] = load) -> Float[Tensor, "items dim"]:
        """Return one vector per item, in order.

        Items are paths of audio files, or arguments of ``read``.
        """
        new = [item for item in dict.fromkeys(items) if item not in self._vectors]
        crops = self._apply(self.embedder.embed, new, read)
        self._vectors |= {item: torch.stack(parts).mean(0) for item, parts in zip(new, crops)}
        return torch.stack([self._vectors[item] for item in items])

    def with_frames(
        self, items: Sequence[T], read: Read[T] = load
    ) -> tuple[Float[Tensor, "items dim"], list[Float[Tensor, "_ channels"]]]:
        """Return one vector and the frames per item; an encoder without frames gives one vector per crop."""
        embed, frames = self.embedder.embed, self.embedder.frames or (lambda wave: embed(wave)[:, None])
        crops = self._apply(lambda wave: list(zip(embed(wave), frames(wave))), items, read)
        vectors, parts = zip(*(zip(*pairs) for pairs in crops))
        return torch.stack([torch.stack(v).mean(0) for v in vectors]), [torch.cat(p) for p in parts]

    @torch.no_grad()
    def _apply(
        self, function: Callable[[Tensor], Iterable[Any]], items: Sequence[T], read: Read[T]
    ) -> list[list[Any]]:
        """Apply a function to the crops of all items, in batches of crops of equal length."""
        waiting: dict[int, list[tuple[int, Tensor]]] = defaultdict(list)
        outputs_of: list[list[Any]] = [[] for _ in items]

        def compute(queue: list[tuple[int, Tensor]]) -> None:
            outputs = function(torch.cat([crop for _, crop in queue]))
            for (index, _), output in zip(queue, outputs, strict=True):
                if not torch.isfinite(output if isinstance(output, Tensor) else output[0]).all():
                    name = self.embedder.name
                    raise UserError(f"{items[index]}: the embedding by the encoder {name} is not finite")
                outputs_of[index].append(output)

        bar = tqdm(items, desc=f"embedding by {self.embedder.name}", unit="clip", delay=1.0)
        for index, item in enumerate(bar):
            for crop in self._crops(read(item, self.embedder.sample_rate)):
                queue = waiting[crop.shape[-1]]
                queue.append((index, crop))
                if len(queue) == self.batch:  # an item's crops have equal length, so they stay in order
                    compute(waiting.pop(crop.shape[-1]))
        for queue in waiting.values():
            compute(queue)
        return outputs_of

    def _crops(self, wave: Float[Tensor, "1 1 samples"]) -> list[Tensor]:
        n_samples = wave.shape[-1]
        n_crops = max(1, -(-n_samples // self.crop_samples))
        length = -(-n_samples // n_crops)
        starts = [min(i * length, n_samples - length) for i in range(n_crops)]
        return [wave[..., start : start + length] for start in starts]


def embeddings_of(embedder: Embedder, args: argparse.Namespace) -> Embeddings:
    return Embeddings(embedder, crop_s=args.crop_s, batch=args.batch)


def device_of(name: str) -> str:
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError):
        raise UserError(f"--device {name} is not available here; give auto, cpu or cuda") from None
    return name
