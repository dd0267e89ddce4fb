"""Options that all probes share."""

import argparse
from pathlib import Path

import torch

from engine.arguments import Arguments
from engine.user_error import UserError
from pretrain.probe.embedders import NAMES, Embedder, open_embedders
from pretrain.probe.listener import Listener


def probe_arguments(task: str, docstring: str | None, *, data: str = "") -> Arguments:
    """A parser with ``--encoder``, ``--data``, ``--out`` and what else every probe takes."""
    parser = Arguments.described_by(f"pretrain.probe {task}", docstring)
    parser.add_argument(
        "--encoder", action="append", default=[], metavar="NAME", help=f"{NAMES}; repeat for columns"
    )
    parser.add_argument("--data", default=data, required=not data, help="manifest or folder")
    parser.add_argument("--out", type=Path, default=Path("runs/probe"), help="folder of results (runs/probe)")
    parser.add_argument("--crop-s", type=float, default=10.0, help="longer files are heard in crops (10 s)")
    parser.add_argument("--batch", type=int, default=8, help="crops heard at once (8)")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    return parser


def label_arguments(parser: Arguments) -> None:
    """Add ``--label``: the column that the labels stand in."""
    parser.add_argument("--label", default="", help="column of the labels (label, labels, category or class)")


def seed_arguments(parser: Arguments, seeds: int = 3) -> None:
    """Add ``--seeds``: how many trainings a figure is the mean of."""
    parser.add_argument("--seeds", type=int, default=seeds, help=f"trainings to take the mean of ({seeds})")


def opened_embedders(words: argparse.Namespace, default: tuple[str, ...] = ("logmel",)) -> list[Embedder]:
    """What ``--encoder`` names."""
    return open_embedders(words.encoder or default, device=device_of(words.device))


def listener(embedder: Embedder, words: argparse.Namespace) -> Listener:
    """A listener as the options want it."""
    if words.batch < 1:
        raise UserError(f"--batch {words.batch} must be at least 1")
    return Listener(embedder, crop_s=words.crop_s, batch=words.batch)


def device_of(name: str) -> str:
    """``cuda`` for ``auto`` where there is one."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError):
        raise UserError(f"--device {name} is not here; give auto, cpu or cuda") from None
    return name


def checked_seeds(n: int) -> range:
    """The seeds that ``--seeds`` asks for."""
    if n < 1:
        raise UserError(f"--seeds {n} must be at least 1")
    return range(n)
