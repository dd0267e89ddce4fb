"""Infer the configuration of published weights from their shapes, if there is no configuration file."""

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from jaxtyping import Shaped
from torch import Tensor

from data.frontends import NAMED
from engine.user_error import UserError
from vocoders.hifigan import V1, V1_16K, V1_24K, V3, V3_16K, V3_24K
from vocoders.mel_files import DEFINITIONS
from vocoders.melgan import MelGANConfig
from vocoders.vocoder import VocoderConfig
from vocoders.waveglow import WaveGlowConfig
from vocoders.wavenet.conditioning import LocalConfig
from vocoders.wavenet.distributions import Gaussian, MixtureOfLogistics, MuLaw
from vocoders.wavenet.network import GlobalConfig, WaveNetConfig

State = Mapping[str, Shaped[Tensor, "..."]]
Shapes = Mapping[str, tuple[int, ...]]


def from_shapes(kind: str, state: State, where: str | Path) -> VocoderConfig:
    """Infer a network's configuration from its weights; ``state`` is in our names, folded or not.

    Raises ``UserError`` if the shapes are ambiguous.
    """
    shapes = {
        name.replace(".parametrizations.weight.original1", ".weight"): tuple(tensor.shape)
        for name, tensor in state.items()
    }
    readers = {"hifigan": _hifigan, "melgan": _melgan, "waveglow": _waveglow, "wavenet": _wavenet}
    try:
        return readers[kind](shapes)
    except (KeyError, IndexError, StopIteration, ValueError, ZeroDivisionError):
        raise UserError(
            f"the shapes in {where} do not determine its {kind} network: give its configuration (config=, "
            "--config), the JSON file that was published with it"
        ) from None


def _count(shapes: Shapes, pattern: str) -> int:
    """The number of different integers at the place of ``#`` in names that match the pattern."""
    return len({m[1] for name in shapes if (m := re.match(pattern.replace("#", r"(\d+)"), name))})


def _hifigan(shapes: Shapes) -> VocoderConfig:
    channels, n_mels, _ = shapes["conv_pre.weight"]
    n_ups = _count(shapes, r"ups\.#\.")
    kernels = tuple(shapes[f"ups.{i}.weight"][2] for i in range(n_ups))
    n_blocks = _count(shapes, r"resblocks\.#\.") // n_ups
    second = any(".convs1." in name for name in shapes)
    first = "convs1" if second else "convs"
    blocks = tuple(shapes[f"resblocks.{i}.{first}.0.weight"][2] for i in range(n_blocks))
    for known, mel in (
        (V1, "hifigan"),
        (V3, "hifigan"),
        (V1_16K, "speech16k"),
        (V1_24K, "speech24k"),
        (V3_16K, "speech16k"),
        (V3_24K, "speech24k"),
    ):
        sizes = known.upsample_kernels, known.resblock_kernels, known.resblock == "1", known.n_mels
        if sizes == (kernels, blocks, second, n_mels):
            return VocoderConfig(mel=NAMED[mel], network=replace(known, channels=channels))
    raise KeyError


def _melgan(shapes: Shapes) -> VocoderConfig:
    widest, n_mels, _ = shapes["model.1.weight"]
    ups, index = [], 3
    while f"model.{index}.weight" in shapes and f"model.{index + 1}.shortcut.weight" in shapes:
        ups.append(shapes[f"model.{index}.weight"][2] // 2)
        n_residual = 0
        while f"model.{index + n_residual + 1}.shortcut.weight" in shapes:
            n_residual += 1
        index += n_residual + 2
    config = MelGANConfig(
        n_mels=n_mels, channels=widest // 2 ** len(ups), ratios=tuple(ups), n_residual_layers=n_residual
    )
    known = [NAMED["melgan"], *NAMED.values()]
    mel = next(m for m in known if (m.hop, m.n_mels) == (config.hop, n_mels))
    return VocoderConfig(mel=mel, network=config)


def _waveglow(shapes: Shapes) -> VocoderConfig:
    n_mels, _, window = shapes["upsample.weight"]
    n_flows = _count(shapes, r"convinv\.#\.")
    widths = [shapes[f"convinv.{k}.conv.weight"][0] for k in range(n_flows)]
    steps = [k for k in range(1, n_flows) if widths[k] < widths[k - 1]]
    _, n_channels, kernel = shapes["WN.0.in_layers.0.weight"]
    config = WaveGlowConfig(
        n_mels=n_mels,
        n_flows=n_flows,
        n_group=widths[0],
        n_early_every=steps[0] if steps else n_flows,
        n_early_size=widths[0] - widths[steps[0]] if steps else 2,
        n_layers=_count(shapes, r"WN\.0\.in_layers\.#\."),
        n_channels=n_channels,
        kernel=kernel,
        hop=window // 4,  # the published ratio, 256 to 1024, which our presets keep
        window=window,
    )
    usual = DEFINITIONS["waveglow"]
    known = [usual, *NAMED.values(), replace(usual, n_mels=n_mels, hop=config.hop)]
    mel = next(m for m in known if (m.hop, m.n_mels) == (config.hop, n_mels))
    return VocoderConfig(mel=mel, network=config)


def _wavenet(shapes: Shapes) -> VocoderConfig:
    """Stacks are the published ones for the number of layers; learned upsampling determines the hop."""
    layers = _count(shapes, r"conv_layers\.#\.")
    stacks = {30: 3, 24: 4, 20: 2, 10: 1}[layers]
    gate, residual, kernel = shapes["conv_layers.0.conv.weight"]
    n_out = shapes["last_conv_layers.3.weight"][0]
    n_in = shapes["first_conv.weight"][1]
    if n_in == 1 and n_out == 3:
        raise KeyError  # ambiguous: one logistic, or one Gaussian with a mixture weight
    stages = [name for name in shapes if re.match(r"upsample_net\.upsample\.up_layers\.\d+\.weight", name)]
    by_number = sorted(stages, key=lambda name: int(name.split(".")[-2]))
    scales = tuple((shapes[name][3] - 1) // 2 for name in by_number)
    if math.prod(scales) == 1:
        raise ValueError  # no learned upsampling
    if n_in > 1:
        output = MuLaw(levels=n_out)
    else:
        output = Gaussian() if n_out == 2 else MixtureOfLogistics(n=n_out // 3)
    local_channels, _, width = shapes["upsample_net.conv_in.weight"]
    local = LocalConfig(n=local_channels, scales=scales, pad=(width - 1) // 2)
    table = shapes.get("embed_speakers.weight")
    network = WaveNetConfig(
        layers=layers,
        stacks=stacks,
        residual=residual,
        gate=gate,
        skip=shapes["last_conv_layers.1.weight"][0],
        kernel=kernel,
        output=output,
        local=local,
        global_=GlobalConfig(n_speakers=table[0], dim=table[1]) if table else None,
    )
    mel = replace(DEFINITIONS["wavenet_r9y9"], n_mels=local.n, hop=local.hop)
    return VocoderConfig(mel=mel, network=network)
