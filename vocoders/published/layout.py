"""Tensors of published checkpoints: detect their layout, and convert their names to ours and back.

Files are opened with weights-only loading. Our parameters have the published names, except that PyTorch has
renamed weight and spectral norm: ``X.weight_g`` is now ``X.parametrizations.weight.original0``.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor

from engine.torch_files import WRAPPERS
from engine.user_error import UserError

State = Mapping[str, Shaped[Tensor, "..."]]

MARKS = {
    "hifigan": (r"conv_pre\.", r"ups\.0\."),
    "melgan": (r"model\.1\.", r"model\.\d+\.shortcut\."),
    "waveglow": (r"WN\.0\.", r"convinv\.0\."),
    "wavenet": (r"first_conv\.", r"conv_layers\.0\."),
    "hifigan discriminators": (r"discriminators\.0\.convs\.0\.",),
    "melgan discriminators": (r"model\.disc_0\.",),
}
"""Patterns at the start of tensor names that identify each layout."""
ADVERSARIES = {"mpd": "periods", "msd": "scales"}
"""Keys of HiFi-GAN's ``do_*`` files, and our names of their networks."""
_NORMS = {"weight_g": "parametrizations.weight.original0", "weight_v": "parametrizations.weight.original1"}
_SPECTRAL = {
    "weight_orig": "parametrizations.weight.original",
    "weight_u": "parametrizations.weight.0._u",
    "weight_v": "parametrizations.weight.0._v",
}


def from_published(state: State) -> dict[str, Tensor]:
    """Rename a published state's tensors to our names; folded tensors and our names are unchanged."""
    ours = {}
    for name, tensor in state.items():
        stem, _, last = name.rpartition(".")
        norm = _SPECTRAL if f"{stem}.weight_orig" in state else _NORMS
        ours[f"{stem}.{norm.get(last, last)}" if stem else name] = tensor
    return ours


def to_published(state: State) -> dict[str, Tensor]:
    """The inverse of ``from_published``."""
    back = {ours: theirs for norm in (_NORMS, _SPECTRAL) for theirs, ours in norm.items()}

    def renamed(name: str) -> str:
        stem, mark, last = name.partition(".parametrizations.")
        return f"{stem}.{back[f'parametrizations.{last}']}" if mark else name

    return {renamed(name): tensor for name, tensor in state.items()}


def is_folded(state: State) -> bool:
    """Whether a state, in either naming, has no weight norm."""
    return not any(re.search(r"\.weight_g$|\.original0$", name) for name in state)


def network_state(content: Mapping[str, Any], where: str | Path) -> dict[str, Tensor]:
    """Extract the generator's tensors from the structure in which training code saved them."""
    for key in WRAPPERS:
        inner = content.get(key)
        if isinstance(inner, Mapping) and inner:
            content = inner
            break
    state = {name: tensor for name, tensor in content.items() if isinstance(tensor, Tensor)}
    if not state:
        found = ", ".join(map(str, list(content)[:6])) or "nothing"
        raise UserError(
            f"{where} holds no network's tensors: found {found}; a state dict is expected, at the top level "
            f"or under one of {', '.join(WRAPPERS)}"
        )
    invalid = next((n for n, tensor in state.items() if bool(tensor.isnan().any())), None)
    if invalid is not None:
        raise UserError(f"{where} holds NaN in {invalid}: its training diverged; use an earlier checkpoint")
    prefix = _prefix(state)
    return {n.removeprefix(prefix): tensor for n, tensor in state.items() if n.startswith(prefix)}


def _prefix(names: Iterable[str]) -> str:
    """The prefix of a known layout's names, such as ``module.`` or ``generator.``."""
    names = list(names)
    for marks in MARKS.values():
        first, *others = marks
        prefixes = {match[1] or "" for name in names if (match := re.match(rf"(.*?\.)??{first}", name))}
        for prefix in sorted(prefixes, key=len):
            if all(any(re.match(re.escape(prefix) + mark, name) for name in names) for mark in others):
                return prefix
    return "module." if names and all(name.startswith("module.") for name in names) else ""


def adversary_states(content: Mapping[str, Any], where: str | Path) -> dict[str, dict[str, Tensor]]:
    """The states of a file's discriminators by our names: HiFi-GAN's two kinds or MelGAN's."""
    nested = {
        ours: from_published(network_state(content[theirs], where))
        for theirs, ours in ADVERSARIES.items()
        if isinstance(content.get(theirs), Mapping)
    }
    if nested:
        return nested
    state = network_state(content, where)
    if kind_of_layout(state, where) != "melgan discriminators":
        raise UserError(
            f"{where} holds {kind_of_layout(state, where)} where discriminators are expected: "
            "HiFi-GAN's do_* file or MelGAN's netD.pt"
        )
    return {"windows": from_published(state)}


def kind_of_layout(state: State, where: str | Path) -> str:
    """The layout of tensors, one of ``MARKS``, by their names."""
    for kind, marks in MARKS.items():
        if all(any(re.match(mark, name) for name in state) for mark in marks):
            return kind
    names = ", ".join(list(state)[:4])
    raise UserError(
        f"{where} has an unknown layout: its tensors are {names}, …; known are the published layouts of "
        f"{', '.join(MARKS)}"
    )


_OLD_WAVEGLOW = re.compile(r"(WN\.\d+)\.(cond_layers|res_layers|skip_layers)\.(\d+)\.(.+)")


def fuse_old_layout(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert old WaveGlow weights to ``cond_layer`` and ``res_skip_layers.i``; new ones are unchanged.

    Weights may be folded or not, in either naming of weight norm. The residual half that the old layout's
    last layer may have is unused, and left out.
    """
    fused: dict[str, Tensor] = {}
    parts: dict[tuple[str, str, str], dict[int, Tensor]] = {}
    for key, value in state_dict.items():
        renamed = _OLD_WAVEGLOW.fullmatch(key)
        if renamed is None:
            fused[key] = value
        else:
            coupling, kind, layer, rest = renamed.groups()
            parts.setdefault((coupling, kind, rest), {})[int(layer)] = value
    for (coupling, kind, rest), layers in parts.items():
        if sorted(layers) != list(range(len(layers))):
            raise UserError(f"layers of {coupling}.{kind} are missing: only {sorted(layers)} have a {rest}")
        if kind == "cond_layers":
            fused[f"{coupling}.cond_layer.{rest}"] = torch.cat([layers[i] for i in sorted(layers)])
        if kind == "skip_layers":
            residual = parts.get((coupling, "res_layers", rest), {})
            for i, skip in layers.items():
                halves = [skip] if i + 1 == len(layers) else [residual[i], skip] if i in residual else []
                if not halves:
                    raise UserError(f"{coupling}.res_layers.{i}.{rest} is missing, but its skip layer is not")
                fused[f"{coupling}.res_skip_layers.{i}.{rest}"] = torch.cat(halves)
    return fused
