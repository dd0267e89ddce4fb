"""What published configuration files say in our terms, and what the shapes of weights say without one."""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from jaxtyping import Shaped
from torch import Tensor

from data.frontends import NAMED, MelConfig
from engine.user_error import UserError
from vocoders.hifigan import V1, V1_16K, V1_24K, V3, V3_16K, V3_24K, HiFiGANConfig
from vocoders.mel_files import DEFINITIONS
from vocoders.melgan import MelGANConfig
from vocoders.waveglow import WaveGlowConfig

State = Mapping[str, Shaped[Tensor, "..."]]
Found = tuple[Any, MelConfig]
"""A network's config and the mel definition it reads."""


def read_json(path: str | Path) -> dict[str, Any]:
    """Read a configuration file's object."""
    try:
        content = json.loads(Path(path).read_text())
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise UserError(f"cannot read the configuration {path}: {reason}") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} is not a configuration: an object of settings is expected")
    return content


def from_json(kind: str, content: Mapping[str, Any], where: str | Path) -> Found:
    """Translate a published configuration of this kind of network."""
    own = described(content)
    if own is not None and own != kind:
        raise UserError(f"{where} configures {own}, not {kind}: give the configuration of these weights")
    try:
        match kind:
            case "hifigan":
                return _hifigan(content)
            case "waveglow":
                return _waveglow(content)
            case "wavenet":
                from vocoders.wavenet.published import from_hparams

                return from_hparams(content)
            case "melgan":
                raise UserError("MelGAN has no published configuration file: its shapes say everything")
            case _:
                raise UserError(f"{kind} has no published configuration")
    except KeyError as missing:
        raise UserError(f"{where} is no {kind} configuration: it lacks {missing}") from None
    except (TypeError, AttributeError) as error:
        raise UserError(f"{where} is no {kind} configuration: {error}") from None


def described(content: Mapping[str, Any]) -> str | None:
    """Which network's configuration this is, by its keys."""
    marks = {"hifigan": "upsample_rates", "waveglow": "waveglow_config", "wavenet": "residual_channels"}
    return next((kind for kind, key in marks.items() if key in content), None)


def _hifigan(given: Mapping[str, Any]) -> Found:
    network = HiFiGANConfig(
        n_mels=given["num_mels"],
        upsample_rates=tuple(given["upsample_rates"]),
        upsample_kernels=tuple(given["upsample_kernel_sizes"]),
        channels=given["upsample_initial_channel"],
        resblock=given["resblock"],
        resblock_kernels=tuple(given["resblock_kernel_sizes"]),
        resblock_dilations=tuple(map(tuple, given["resblock_dilation_sizes"])),
    )
    rate = given["sampling_rate"]
    mel = MelConfig(
        sample_rate=rate,
        n_fft=given["n_fft"],
        win=given["win_size"],
        hop=given["hop_size"],
        n_mels=given["num_mels"],
        f_min=float(given["fmin"]),
        f_max=float(rate / 2 if given["fmax"] is None else given["fmax"]),
    )
    return network, mel


def _waveglow(given: Mapping[str, Any]) -> Found:
    sizes, data = given["waveglow_config"], given["data_config"]
    inner = sizes["WN_config"]
    network = WaveGlowConfig(
        n_mels=sizes["n_mel_channels"],
        n_flows=sizes["n_flows"],
        n_group=sizes["n_group"],
        n_early_every=sizes["n_early_every"],
        n_early_size=sizes["n_early_size"],
        n_layers=inner["n_layers"],
        n_channels=inner["n_channels"],
        kernel=inner["kernel_size"],
    )
    mel = replace(
        DEFINITIONS["waveglow"],
        sample_rate=data["sampling_rate"],
        n_fft=data["filter_length"],
        win=data["win_length"],
        hop=data["hop_length"],
        n_mels=sizes["n_mel_channels"],
        f_min=float(data["mel_fmin"]),
        f_max=float(data["mel_fmax"]),
    )
    return network, mel


def from_shapes(kind: str, state: State, where: str | Path) -> Found:
    """What the shapes of weights say of their network; ``state`` is in our names, folded or not.

    Where they leave something open, a configuration is asked for.
    """
    shapes = {
        re.sub(r"\.parametrizations\.weight\.original1$", ".weight", n): tuple(t.shape)
        for n, t in state.items()
    }
    try:
        match kind:
            case "hifigan":
                return _hifigan_from(shapes)
            case "melgan":
                return _melgan_from(shapes)
            case "waveglow":
                return _waveglow_from(shapes)
    except (KeyError, IndexError, ValueError, ZeroDivisionError):
        pass
    raise UserError(
        f"the shapes in {where} do not say everything about its {kind} network: give its configuration "
        "(config=, --config), the JSON file that was published with it"
    )


def _count(shapes: Mapping[str, Any], pattern: str) -> int:
    """How many different numbers stand at the place of ``#`` in the names."""
    found = {m[1] for name in shapes if (m := re.match(pattern.replace("#", r"(\d+)"), name))}
    return len(found)


def _hifigan_from(shapes: Mapping[str, tuple[int, ...]]) -> Found:
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
        found = known.upsample_kernels, known.resblock_kernels, known.resblock == "1", known.n_mels
        if found == (kernels, blocks, second, n_mels):
            return replace(known, channels=channels), NAMED[mel]
    raise KeyError


def _melgan_from(shapes: Mapping[str, tuple[int, ...]]) -> Found:
    widest, n_mels, _ = shapes["model.1.weight"]
    ups, index = [], 3
    while f"model.{index}.weight" in shapes and f"model.{index + 1}.shortcut.weight" in shapes:
        ups.append(shapes[f"model.{index}.weight"][2] // 2)
        n_residual = 0
        while f"model.{index + n_residual + 1}.shortcut.weight" in shapes:
            n_residual += 1
        index += n_residual + 2
    config = MelGANConfig(
        n_mels=n_mels,
        channels=widest // 2 ** len(ups),
        ratios=tuple(ups),
        n_residual_layers=n_residual,
    )
    if (config.hop, n_mels) == (256, 80):
        return config, NAMED["melgan"]
    mel = next(m for m in NAMED.values() if (m.hop, m.n_mels) == (config.hop, n_mels))
    return config, mel


def _waveglow_from(shapes: Mapping[str, tuple[int, ...]]) -> Found:
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
        hop=window // 4,  # published: 256 of 1024, and ours keep to it
        window=window,
    )
    named = {"waveglow": DEFINITIONS["waveglow"], **NAMED}
    mel = next((m for m in named.values() if (m.hop, m.n_mels) == (config.hop, n_mels)), None)
    return config, mel or replace(DEFINITIONS["waveglow"], n_mels=n_mels, hop=config.hop)
