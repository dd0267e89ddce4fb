"""Upgrades of configs and weights of converters from before levels were relative."""

import math
from typing import Any

from torch import Tensor

from engine.user_error import UserError

RENAMED = {
    "decoder.ask.": "decoder.token_query.",
    "decoder.whole.": "decoder.voice_summary.",
    "decoder.tint.": "decoder.style_bias.",
    "usual_pitch.": "mean_log_f0.",
}
"""Prefixes of parameter names, from old to new."""


def upgraded_config(config: dict[str, Any]) -> dict[str, Any]:
    """Upgrade the config of an earlier converter, which has neither refiner nor pitch predictor."""
    content, decoder = dict(config.get("content", {})), dict(config.get("decoder", {}))
    gone = {
        "content.frontend": content.pop("frontend", "mel"),
        "decoder.head": decoder.pop("head", "harmonic"),
        "decoder.norm": decoder.pop("norm", "film"),
    }
    for (name, value), supported in zip(gone.items(), (("mel", "pretrained"), ("harmonic",), ("film",))):
        if value not in supported:
            raise UserError(f"this converter has {name} {value!r}, no longer supported: train it again")
    trunk, layer = content.pop("trunk", None), content.pop("trunk_layer", 0)
    earlier = {"n_channels": 176, "n_blocks": 6, "dim": 12, "time_constant": 200.0} | content
    fixed = {"kernel": 5, "dilations": [1, 2, 4], "relative_level": False}
    sizes = {"hop_ms": "frame_ms", "window_ms": "window_ms", "n_mels": "n_mels"}
    fixed |= {now: config[then] for now, then in sizes.items() if then in config}
    unchanged = ("sample_rate", "look_ahead_ms", "pitch_memory_s", "style")
    same = {name: config[name] for name in unchanged if name in config}
    return same | {
        "pitch_predictor": False,
        "content": earlier | fixed,
        "trunk": trunk and trunk | {"layer": layer},
        "decoder": {"n_channels": 224, "n_blocks": 8} | decoder | {"refiner": None},
    }


def upgraded_state(state: dict[str, Tensor], content_dim: int) -> dict[str, Tensor]:
    """Rename parameters and rescale the decoder's stem: codes had unit length, now mean square 1."""
    renamed = {}
    for name, tensor in state.items():
        for then, now in RENAMED.items():
            if name.startswith(then):
                name = now + name.removeprefix(then)
        renamed[name] = tensor
    stem = renamed["decoder.stem.weight"].clone()
    stem[:, :content_dim] /= math.sqrt(content_dim)
    return renamed | {"decoder.stem.weight": stem}
