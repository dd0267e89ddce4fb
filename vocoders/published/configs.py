"""Convert published configuration files to our configs."""

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from data.frontends import MelConfig
from engine.user_error import UserError
from vocoders.hifigan import HiFiGANConfig
from vocoders.mel_files import DEFINITIONS
from vocoders.vocoder import VocoderConfig
from vocoders.waveglow import WaveGlowConfig
from vocoders.wavenet.conditioning import LocalConfig
from vocoders.wavenet.distributions import Gaussian, MixtureOfLogistics, MuLaw
from vocoders.wavenet.network import GlobalConfig, WaveNetConfig

PRE_EMPHASIS = 0.85
"""Pre-emphasis coefficient of published WaveNets, if their configuration enables it."""


def read_json(path: str | Path) -> dict[str, Any]:
    """Read the JSON object of a configuration file."""
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


def from_json(kind: str, content: Mapping[str, Any], where: str | Path) -> VocoderConfig:
    """Convert a published configuration of this kind of network."""
    marks = {"hifigan": "upsample_rates", "waveglow": "waveglow_config", "wavenet": "residual_channels"}
    configured = next((name for name, key in marks.items() if key in content), kind)
    if configured != kind:
        raise UserError(
            f"{where} configures {configured}, not {kind}: give the configuration of these weights"
        )
    readers = {"hifigan": _hifigan, "waveglow": _waveglow, "wavenet": _wavenet}
    if kind not in readers:
        raise UserError(f"{kind} has no published configuration file: omit it, the shapes are sufficient")
    try:
        return readers[kind](content)
    except KeyError as missing:
        raise UserError(f"{where} is not a {kind} configuration: it lacks {missing}") from None
    except (TypeError, AttributeError) as error:
        raise UserError(f"{where} is not a {kind} configuration: {error}") from None


def _hifigan(given: Mapping[str, Any]) -> VocoderConfig:
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
    return VocoderConfig(mel=mel, network=network)


def _waveglow(given: Mapping[str, Any]) -> VocoderConfig:
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
    return VocoderConfig(mel=mel, network=network)


def _wavenet(given: Mapping[str, Any]) -> VocoderConfig:
    if given.get("legacy"):
        raise UserError("legacy WaveNets (before release 0.2) have an unsupported architecture: retrain them")
    if given.get("upsample_net", "ConvInUpsampleNetwork") != "ConvInUpsampleNetwork":
        raise UserError(f"upsample_net {given['upsample_net']!r} is unsupported: use ConvInUpsampleNetwork")
    inside = given["upsample_params"] if given.get("upsample_conditional_features") else {}
    n_local, n_global = given["cin_channels"], given.get("gin_channels", -1)
    hop = given.get("hop_size") or math.prod(inside["upsample_scales"])
    local = LocalConfig(
        n=n_local,
        upsampling="transposed" if inside else "repetition",
        scales=tuple(inside["upsample_scales"]) if inside else (hop,),
        pad=given.get("cin_pad", inside.get("cin_pad", 0)),
        bands_kernel=inside.get("freq_axis_kernel_size", 1),
    )
    network = WaveNetConfig(
        layers=given["layers"],
        stacks=given["stacks"],
        residual=given["residual_channels"],
        gate=given["gate_channels"],
        skip=given["skip_out_channels"],
        kernel=given["kernel_size"],
        output=_output(given),
        local=local,
        global_=GlobalConfig(n_speakers=given["n_speakers"], dim=n_global) if n_global > 0 else None,
    )
    mel = replace(
        DEFINITIONS["wavenet_r9y9"],
        sample_rate=given.get("sample_rate", 22_050),
        n_fft=given.get("fft_size", 1024),
        win=given.get("win_length", 1024),
        hop=hop,
        n_mels=n_local,
        f_min=float(given.get("fmin", 125)),
        f_max=float(given.get("fmax", 7_600)),
    )
    if (preprocess := given.get("preprocess") or "none") not in ("none", "preemphasis"):
        raise UserError(f"preprocess {preprocess!r} is unsupported: only 'preemphasis' and none are")
    emphasis = PRE_EMPHASIS if preprocess == "preemphasis" else 0.0
    gain = float(given.get("global_gain_scale", 1.0))
    return VocoderConfig(mel=mel, network=network, gain=gain, pre_emphasis=emphasis)


def _output(given: Mapping[str, Any]) -> MuLaw | MixtureOfLogistics | Gaussian:
    """A softmax for one-hot input; else a mixture with the number of components given by the outputs."""
    n_out = given["out_channels"]
    if given.get("input_type") == "mulaw":
        raise UserError("input_type 'mulaw' (a companded scalar) is unsupported: only raw and mulaw-quantize")
    if not given.get("scalar_input", given.get("input_type") == "raw"):
        return MuLaw(levels=n_out)
    lowest = float(given.get("log_scale_min", -14.0))
    if given.get("output_distribution", "Logistic") == "Normal":
        return Gaussian(n=1 if n_out == 2 else n_out // 3, log_scale_min=lowest)
    levels = given.get("quantize_channels", 65_536)
    return MixtureOfLogistics(n=n_out // 3, levels=levels, log_scale_min=lowest)
