"""WaveNet's cached generation: samples a second, one utterance and many, beside the published loop."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from benchmarks.vocoder_peers import fold_published, give_weights, liven, published_modules
from benchmarks.vocoder_timing import Asked, Row, alternate, difference, gmac_of
from vocoders.wavenet.conditioning import LocalConfig
from vocoders.wavenet.generation import generate
from vocoders.wavenet.network import WaveNet, WaveNetConfig

SCALES = (4, 4, 10)
LOCAL = LocalConfig(scales=SCALES, pad=0)
CONFIGS = {
    "30 layers, R64": WaveNetConfig(layers=30, stacks=3, residual=64, gate=128, skip=128, local=LOCAL),
    "24 layers, R128": WaveNetConfig(layers=24, stacks=4, residual=128, gate=256, skip=128, local=LOCAL),
}
GOALS = {"30 layers, R64": 35.0, "24 layers, R128": 12.0}
TOGETHER, TOGETHER_GOAL = 16, 3.0
OUR_FRAMES, THEIR_FRAMES, FRAMES_TOGETHER, CHECKED_FRAMES = 50, 2, 10, 10
"""Frames of 10 ms in one call: the published loop is slow, and as slow at every sample."""
Mel = Float[Tensor, "batch n_mels frames"]


def wavenet_rows(name: str, asked: Asked) -> Iterator[Row]:
    """Generation of one utterance; of the smaller network, of sixteen at once, too."""
    ours, path, theirs = WaveNet(CONFIGS[name]).eval(), asked.peers["wavenet"], None
    liven(ours)
    if path:
        theirs = published_wavenet(path, CONFIGS[name])
        give_weights(ours, theirs)
        fold_published(theirs)
    ours.fold()
    call = partial(generate_published, theirs, mel_for(THEIR_FRAMES)) if theirs else None
    took = alternate(partial(generate, ours, mel_for(OUR_FRAMES)), call, asked.repeats)
    speed = OUR_FRAMES * LOCAL.hop / median(took.ours)
    their_speed = THEIR_FRAMES * LOCAL.hop / median(took.theirs) if theirs else None
    same, at_peak = likeness(ours, theirs) if theirs else "", floor(ours, asked)
    yield faster(f"WaveNet, {name}: samples/s", speed, their_speed, GOALS[name], at_peak, same)
    if name == next(iter(CONFIGS)):
        took = alternate(partial(generate, ours, mel_for(FRAMES_TOGETHER, TOGETHER)), None, asked.repeats)
        all_of_them = TOGETHER * FRAMES_TOGETHER * LOCAL.hop / median(took.ours)
        what = f"WaveNet, {name}: {TOGETHER} utterances, samples/s, beside ours of one"
        yield faster(what, all_of_them, speed, TOGETHER_GOAL, at_peak)


def published_wavenet(path: Path | str, config: WaveNetConfig) -> nn.Module:
    (package,) = published_modules(path, "wavenet_vocoder")
    local = {"upsample_scales": list(SCALES), "cin_channels": LOCAL.n, "cin_pad": LOCAL.pad}
    return package.WaveNet(
        out_channels=256,
        layers=config.layers,
        stacks=config.stacks,
        residual_channels=config.residual,
        gate_channels=config.gate,
        skip_out_channels=config.skip,
        kernel_size=config.kernel,
        cin_channels=LOCAL.n,
        upsample_conditional_features=True,
        upsample_params=local,
    ).eval()


def mel_for(frames: int, batch: int = 1) -> Mel:
    """Numbers as a log-mel's."""
    return torch.randn(batch, LOCAL.n, frames, generator=torch.Generator().manual_seed(0)) - 4


@torch.no_grad()
def generate_published(theirs: Any, mel: Mel) -> Tensor:
    """The published loop: classes drawn at random, one-hot."""
    return theirs.incremental_forward(c=mel, T=mel.shape[-1] * LOCAL.hop)


@torch.no_grad()
def likeness(ours: WaveNet, theirs: Any) -> str:
    """The difference of both networks' outputs for the same past and mel."""
    mel, classes = mel_for(CHECKED_FRAMES), torch.randint(256, (1, CHECKED_FRAMES * LOCAL.hop))
    one_hot = nn.functional.one_hot(classes, 256).float().transpose(1, 2)
    return difference(ours(classes, mel), theirs(one_hot, c=mel))


def floor(ours: WaveNet, asked: Asked) -> str:
    """Samples a second if every multiply-add ran at the peak; those of one utterance alone cannot."""
    n_samples = CHECKED_FRAMES * LOCAL.hop
    classes = torch.zeros(1, n_samples, dtype=torch.long)
    giga = gmac_of(ours, "forward", classes, mel_for(CHECKED_FRAMES))
    return f"{asked.peak / giga * n_samples:.0f}"


def faster(what: str, ours: float, theirs: float | None, goal: float, floor: str, same: str = "") -> Row:
    """A line whose figures are speeds: the more, the better."""
    if theirs is None:
        return [what, f"{ours:.0f}", "not measured", "", f"≥ {goal:g} ×", "", floor, same]
    ratio = ours / theirs
    met = "yes" if ratio >= goal else f"NO, {ratio / goal - 1:+.0%}"
    return [what, f"{ours:.0f}", f"{theirs:.0f}", f"{ratio:.1f} ×", f"≥ {goal:g} ×", met, floor, same]
