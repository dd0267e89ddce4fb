"""The published vocoder code, imported from unchanged checkouts and loaded with our weights.

Its uses of older packages are emulated here: mel filters with positional arguments (librosa before 0.10),
real-valued spectra and ``qr`` (torch before 1.8), ``torch.cuda.FloatTensor`` on the CPU (WaveGlow's noise),
and modules that it imports but does not call in what is measured.
"""

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import torch
from torch import Tensor, nn

from data.frontends import MelConfig, mel_filters
from engine.user_error import UserError
from vocoders.published.layout import to_published
from vocoders.weight_norm import fold_weight_norm

UNUSED = (
    "librosa",
    "librosa.core",
    "librosa.util",
    "librosa.filters",
    "matplotlib",
    "matplotlib.pylab",
    "yaml",
)
"""Modules replaced by stubs: used only by code that is not measured, or incompatible in new versions."""


def old_mel(rate: int, n_fft: int, n_mels: int, f_min: float | int, f_max: float | int | None) -> np.ndarray:
    low, high = float(f_min), float(f_max or rate / 2)
    config = MelConfig(sample_rate=rate, n_fft=n_fft, n_mels=n_mels, f_min=low, f_max=high)
    return mel_filters(config).numpy()


def old_stft(*args: Any, **options: Any) -> Tensor:
    """``torch.stft`` with real-valued output, as before torch 1.8."""
    return torch.view_as_real(torch.stft(*args, **options, return_complex=True))


@contextmanager
def checkout(path: Path) -> Iterator[None]:
    """Import from a checkout; its modules are then removed from ``sys.modules``, to avoid name clashes."""
    before = dict(sys.modules)
    stubs = {name: MagicMock() for name in UNUSED}
    stubs["librosa.filters"].mel = old_mel
    sys.modules.update(stubs)
    for name in ("models", "utils", "env", "meldataset", "mel2wav", "glow", "wavenet_vocoder"):
        sys.modules.pop(name, None)
    sys.path.insert(0, str(path))
    try:
        yield
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"{path} is not a checkout of the published code, or of an unsupported version: {error}"
        ) from error
    finally:
        sys.path.remove(str(path))
        for name in set(sys.modules) - set(before):
            origin = getattr(sys.modules[name], "__file__", None) or ""
            if origin.startswith(str(path)) or name in stubs:
                del sys.modules[name]
        sys.modules.update({name: module for name, module in before.items() if name in stubs})


def published_modules(path: Path | str, *names: str) -> list[Any]:
    """Import modules of a checkout by name, with an emulation of the old torch that they need."""
    path = Path(path).resolve()
    if not path.is_dir():
        raise UserError(f"{path} is not a folder: give the path of a checkout of the published code")
    with checkout(path):
        modules: list[Any] = [importlib.import_module(name) for name in names]
    for module in modules:
        if hasattr(module, "torch"):
            on_cpu = SimpleNamespace(**vars(torch.cuda) | {"FloatTensor": torch.FloatTensor})
            old = {"stft": old_stft, "qr": torch.linalg.qr, "cuda": on_cpu}
            module.torch = SimpleNamespace(**vars(torch) | old)
    return modules


class Drawn:
    """Replaces ``torch.cuda.FloatTensor``, with which WaveGlow draws noise, and returns given noise."""

    def __init__(self, z: Tensor, n_early: int, early_size: int) -> None:
        early = z[:, : n_early * early_size].split(early_size, dim=1)
        self.parts = [z[:, n_early * early_size :], *reversed(early)]
        self.turn = 0

    def __call__(self, *_: int) -> "Drawn":
        return self

    def normal_(self) -> Tensor:
        """Return the next part, from the deepest flow on, cyclically."""
        self.turn += 1
        return self.parts[(self.turn - 1) % len(self.parts)]


def published_waveglow(path: Path | str, config: Any) -> Any:
    """The published network; its ``give_noise`` sets the noise that it generates from."""
    (glow,) = published_modules(path, "glow")
    sizes = {"n_layers": config.n_layers, "n_channels": config.n_channels, "kernel_size": config.kernel}
    network = glow.WaveGlow(
        config.n_mels, config.n_flows, config.n_group, config.n_early_every, config.n_early_size, sizes
    )
    n_early = (config.n_flows - 1) // config.n_early_every

    def give_noise(z: Tensor) -> None:
        glow.torch.cuda.FloatTensor = Drawn(z, n_early, config.n_early_size)

    network.give_noise = give_noise
    return network


def hifigan_settings(config: Any) -> Any:
    """A config with the attributes that the published code expects: the keys of its JSON file."""
    return SimpleNamespace(
        resblock=config.resblock,
        upsample_rates=list(config.upsample_rates),
        upsample_kernel_sizes=list(config.upsample_kernels),
        upsample_initial_channel=config.channels,
        resblock_kernel_sizes=list(config.resblock_kernels),
        resblock_dilation_sizes=[list(d) for d in config.resblock_dilations],
        batch_size=4,
        n_fft=1024,
        num_mels=80,
        sampling_rate=22_050,
        hop_size=256,
        win_size=1024,
        fmin=0,
        fmax=8_000,
        fmax_for_loss=None,
        learning_rate=2e-4,
        adam_b1=0.8,
        adam_b2=0.99,
    )


def amplify(network: nn.Module) -> None:
    """Scale up random weights, with which the output would otherwise be almost silent."""
    for name, parameter in network.named_parameters():
        if name.endswith("weight.original0"):
            parameter.data *= 1.6


def match(ours: nn.Module, theirs: Any) -> None:
    """Copy our weights to the published network, if there is one; then remove all weight norm of both."""
    if theirs is not None:
        theirs.load_state_dict(to_published(ours.state_dict()))
        for module in theirs.modules():
            if hasattr(module, "weight_g"):
                nn.utils.remove_weight_norm(module)
        theirs.eval()
    fold_weight_norm(ours).eval()
