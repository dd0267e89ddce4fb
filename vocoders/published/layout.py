"""Published checkpoints: which network's layout a file has, its tensors under our names, and the way back.

Files are opened with weights-only loading. Our networks bear the published names but for weight and spectral
norm, whose tensors PyTorch has renamed since: ``X.weight_g`` is ``X.parametrizations.weight.original0`` now.
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
"""What the names of each layout's tensors begin with."""
ADVERSARIES = {"mpd": "periods", "msd": "scales"}
"""Keys of HiFi-GAN's ``do_*`` files, and what we call their networks."""
_NORMS = {"weight_g": "parametrizations.weight.original0", "weight_v": "parametrizations.weight.original1"}
_SPECTRAL = {
    "weight_orig": "parametrizations.weight.original",
    "weight_u": "parametrizations.weight.0._u",
    "weight_v": "parametrizations.weight.0._v",
}


def from_published(state: State) -> dict[str, Tensor]:
    """A published state under our names; folded tensors and names of ours stay as they are."""
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
    """Is there no weight norm in a state, of either naming?"""
    return not any(re.search(r"\.weight_g$|\.original0$", name) for name in state)


def network_state(content: Mapping[str, Any], where: str | Path) -> dict[str, Tensor]:
    """Take the tensors of the network that generates out of whatever training code wraps them in."""
    for key in WRAPPERS:
        inner = content.get(key)
        if isinstance(inner, Mapping) and inner:
            content = inner
            break
    state = {name: tensor for name, tensor in content.items() if isinstance(tensor, Tensor)}
    if not state:
        found = ", ".join(map(str, list(content)[:6])) or "nothing"
        raise UserError(
            f"{where} holds no network's tensors: found {found}; expected is a state dict, bare or under one "
            f"of {', '.join(WRAPPERS)}"
        )
    spoilt = next((n for n, tensor in state.items() if bool(tensor.isnan().any())), None)
    if spoilt is not None:
        raise UserError(
            f"{where} holds NaN in {spoilt}: its training went astray; take an earlier checkpoint"
        )
    prefix = _prefix(state)
    return {n.removeprefix(prefix): tensor for n, tensor in state.items() if n.startswith(prefix)}


def _prefix(names: Iterable[str]) -> str:
    """What training code put before a known layout's names, such as ``module.`` or ``generator.``."""
    names = list(names)
    for marks in MARKS.values():
        first, *others = marks
        prefixes = {match[1] or "" for name in names if (match := re.match(rf"(.*?\.)??{first}", name))}
        for prefix in sorted(prefixes, key=len):
            if all(any(re.match(re.escape(prefix) + mark, name) for name in names) for mark in others):
                return prefix
    return "module." if names and all(name.startswith("module.") for name in names) else ""


def adversary_states(content: Mapping[str, Any], where: str | Path) -> dict[str, dict[str, Tensor]]:
    """The discriminators of a file by our names, under our names: HiFi-GAN's two kinds or MelGAN's."""
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
    """Whose tensors these are, by their names."""
    for kind, marks in MARKS.items():
        if all(any(re.match(mark, name) for name in state) for mark in marks):
            return kind
    names = ", ".join(list(state)[:4])
    raise UserError(
        f"{where} has no layout known here: its tensors are {names}, …; known are the published layouts of "
        f"{', '.join(MARKS)}"
    )


_OLD_WAVEGLOW = re.compile(r"(WN\.\d+)\.(cond_layers|res_layers|skip_layers)\.(\d+)\.(.+)")


def fuse_old_layout(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights in the later layout: ``cond_layer`` and ``res_skip_layers.i``; others as they are.

    Weights may be folded or not, the weight norm pair named either way. The old layout's last layer may
    bear a residual half, which nothing hears; it is left out.
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
                    raise UserError(f"{coupling}.res_layers.{i}.{rest} is missing beside its skip layer")
                fused[f"{coupling}.res_skip_layers.{i}.{rest}"] = torch.cat(halves)
    return fused
