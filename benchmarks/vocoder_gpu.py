"""The vocoders on a GPU: training steps in bf16, compiled, beside the published fp32 loops on that card."""

from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from statistics import median

import torch
from torch import nn

from benchmarks import vocoder_steps as steps
from benchmarks.vocoder_peers import fold_published, give_weights, liven, published_hifigan
from benchmarks.vocoder_timing import Asked, Row, alternate, row
from benchmarks.vocoder_wavenet import CONFIGS, LOCAL, faster, generate_published, mel_for, published_wavenet
from vocoders import hifigan
from vocoders.hifigan import HiFiGAN
from vocoders.wavenet.generation import generate
from vocoders.wavenet.network import WaveNet

BATCH, SEGMENT = 16, 8_192
"""The published batch."""
TOGETHER = 64
"""Utterances at once: one alone leaves a GPU idle."""


def gpu_rows(asked: Asked, device: str = "cuda") -> Iterator[Row]:
    """Whatever can be measured on this card; nothing without one."""
    if device == "cuda" and not torch.cuda.is_available():
        return
    yield from step_rows("hifigan_v2", asked, device)
    yield from step_rows("melgan", asked, device)
    yield generator_row(asked, device)
    yield wavenet_row(asked, device)


def step_rows(
    preset: str, asked: Asked, device: str, size: tuple[int, int] = (BATCH, SEGMENT)
) -> Iterator[Row]:
    """A training step: fp32; then bf16 and compiled."""
    wave, melgan = steps.speechlike(*size, device=device), preset == "melgan"
    path, theirs = asked.peers["melgan" if melgan else "hifigan"], None
    if path:
        theirs = steps.melgan_step(path, wave) if melgan else steps.hifigan_step(path, wave, hifigan.V2)
    for compiled in (False, True):
        ours = steps.our_step(preset, wave, compiled=compiled)
        precision = torch.autocast(device, torch.bfloat16) if compiled else nullcontext()

        def step(ours: steps.Step = ours, precision: torch.autocast | nullcontext = precision) -> None:
            with precision:
                ours()

        took = alternate(step, theirs, asked.repeats)
        how = "bf16, compiled" if compiled else "fp32"
        what = f"{preset} training step on the GPU, {how}, batch {size[0]} × {size[1]}"
        yield row(what, took, lambda seconds: f"{1000 * seconds:.1f} ms", None)


def generator_row(asked: Asked, device: str) -> Row:
    """HiFi-GAN V1, ten seconds, fp32."""
    ours, path, call = HiFiGAN(hifigan.V1), asked.peers["hifigan"], None
    liven(ours)
    mel = steps.mel_like(80, 861).to(device)
    if path:
        theirs = published_hifigan(path, hifigan.V1)
        give_weights(ours, theirs)
        call = partial(torch.no_grad()(fold_published(theirs).eval().to(device)), mel)
    took = alternate(partial(ours.fold().eval().to(device).generate, mel), call, asked.repeats)
    duration = mel.shape[-1] * 256 / 22_050
    unit = "{:.5f}".format
    return row(
        "HiFi-GAN V1 on the GPU, 10 s: real-time factor",
        took,
        lambda s: unit(s / duration),
        None,
        same=took.same,
    )


def wavenet_row(asked: Asked, device: str) -> Row:
    """Cached generation of many utterances at once."""
    name, config = next(iter(CONFIGS.items()))
    ours, path, call = WaveNet(config).eval(), asked.peers["wavenet"], None
    liven(ours)
    if path:
        theirs: nn.Module = published_wavenet(path, config)
        give_weights(ours, theirs)
        call = partial(generate_published, fold_published(theirs).to(device), mel_for(2, TOGETHER).to(device))
    frames = 10
    took = alternate(
        partial(generate, ours.fold().to(device), mel_for(frames, TOGETHER).to(device)), call, asked.repeats
    )
    speed = TOGETHER * frames * LOCAL.hop / median(took.ours)
    their_speed = TOGETHER * 2 * LOCAL.hop / median(took.theirs) if took.theirs else None
    what = f"WaveNet on the GPU, {name}, {TOGETHER} utterances: samples/s"
    cells = faster(what, speed, their_speed, 1.0, "")
    return [*cells[:4], "", "", *cells[6:]]
