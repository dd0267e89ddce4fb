"""How a benchmark shows what it measured."""

import platform
from collections.abc import Sequence

import torch

from engine.table import markdown


def machine() -> str:
    """The processor, the threads and the torch that the figures belong to."""
    try:
        with open("/proc/cpuinfo") as file:
            names = [line.split(":")[1].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    name = names[0] if names else platform.processor() or platform.machine()
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{name}{gpu}, {torch.get_num_threads()} thread(s), torch {torch.__version__}"


def show(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    print(f"\n{title}\n\n{markdown(heads, rows)}")
