"""Vocoder speed compared with the published code: ``python -m benchmarks.vocoders --peer-hifigan FOLDER …``

``--peer-*`` are checkouts of the published code; without them only our vocoders are measured. Both compute
the same function with the same weights, in turns, on one thread, in fp32; the ratio is the median over turns.
Generators also run in onnxruntime and OpenVINO if these are installed; the column "theirs" is then the
runtime's time. The floor is the time of the arithmetic at the machine's fp32 peak, measured in the same run.
Run it on an otherwise idle machine.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from benchmarks import vocoder_peers as peers
from benchmarks import vocoder_steps as steps
from benchmarks.table import machine, show
from benchmarks.vocoder_timing import (
    HEADS,
    Row,
    Settings,
    alternate,
    difference,
    fp32_peak,
    gmac,
    gmac_of,
    row,
    runtime_calls,
)
from data.frontends import named_mel
from engine.arguments import Arguments
from engine.user_error import UserError, exits_cleanly
from vocoders import cpu, hifigan, melgan
from vocoders.hifigan import HiFiGAN
from vocoders.melgan import MelGAN
from vocoders.vocoder import Vocoder, VocoderConfig
from vocoders.waveglow import WAVEGLOW, WaveGlow
from vocoders.wavenet.conditioning import LocalConfig
from vocoders.wavenet.generation import generate
from vocoders.wavenet.network import WaveNet, WaveNetConfig

RATE, HOP = 22_050, 256
LENGTHS = (1, 10)
"""Lengths of the generated waves, s."""
GENERATOR_GOAL, WAVEGLOW_GOAL, EVEN_GOAL = 0.65, 0.6, 1.05
STEP_GOALS = {"hifigan_v2": 0.6, "melgan": 0.75}
BATCH, SEGMENT = 4, 8_192
PEERS = ("hifigan", "melgan", "waveglow", "wavenet")


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> None:
    arguments = Arguments.described_by("benchmarks.vocoders", __doc__)
    option = arguments.add_argument
    for name in PEERS:
        option(f"--peer-{name}", metavar="FOLDER", help=f"checkout of the published {name} code")
    option("--repeats", type=int, default=5, help="turns, of which the median is reported (default 5)")
    option("--only", nargs="+", metavar="NAME", help=f"measurements to run, of {', '.join(MEASURED)}")
    args = arguments.parse_args(argv)
    unknown = set(args.only or ()) - set(MEASURED)
    if unknown:
        raise UserError(f"--only {unknown.pop()} is not measured; choose from {', '.join(MEASURED)}")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    checkouts = {name: getattr(args, f"peer_{name}") for name in PEERS}
    settings = Settings(peers=checkouts, repeats=max(args.repeats, 1), peak=fp32_peak())
    rows = []
    for name in args.only or MEASURED:
        for line in MEASURED[name](settings):
            print(" | ".join(cell for cell in line if cell), file=sys.stderr)
            rows.append(line)
    title = f"on {machine()}, fp32 peak {2 * settings.peak:.0f} GFLOP/s; {settings.repeats} turns"
    show(title, HEADS, rows)


def real_time(seconds: float, duration: float) -> str:
    return f"{seconds / duration:.4f}"


def hifigan_rows(name: str, settings: Settings) -> Iterator[Row]:
    config, theirs = {"V1": hifigan.V1, "V2": hifigan.V2, "V3": hifigan.V3}[name], None
    if path := settings.peers["hifigan"]:
        (models,) = peers.published_modules(path, "models")
        theirs = models.Generator(peers.hifigan_settings(config))
    yield from generator_rows(f"HiFi-GAN {name}", HiFiGAN(config), theirs, settings)


def melgan_rows(settings: Settings) -> Iterator[Row]:
    config, theirs = melgan.MELGAN, None
    if path := settings.peers["melgan"]:
        (modules,) = peers.published_modules(path, "mel2wav.modules")
        theirs = modules.Generator(config.n_mels, config.channels, config.n_residual_layers)
    yield from generator_rows("MelGAN", MelGAN(config), theirs, settings)


def generator_rows(
    name: str, ours: HiFiGAN | MelGAN, theirs: nn.Module | None, settings: Settings
) -> Iterator[Row]:
    """Real-time factors of a generator at two lengths, and their ratio."""
    peers.amplify(ours)
    peers.match(ours, theirs)
    whole = Vocoder(VocoderConfig(mel=named_mel("hifigan"), network=ours.config))
    whole.network = ours
    per_second = []
    for seconds in LENGTHS:
        mel = steps.mel_like(round(seconds * RATE / HOP))
        duration = mel.shape[-1] * HOP / RATE
        call = partial(torch.no_grad()(theirs), mel) if theirs else None
        unit = partial(real_time, duration=duration)
        took = alternate(partial(cpu.generate, ours, mel), call, settings.repeats)
        floor = f"{gmac_of(ours, 'forward', mel) / settings.peak / duration:.4f}"
        what = f"{name}, {seconds} s: real-time factor"
        yield row(what, took, unit, GENERATOR_GOAL, floor=floor, same=took.same)
        per_second.append((min(took.ours) / duration, min(took.theirs, default=0.0) / duration))
        for runtime, run in runtime_calls(ours, mel):
            timed = alternate(partial(cpu.generate, ours, mel), run, settings.repeats)
            yield row(f"{name}, {seconds} s, compared with {runtime}", timed, unit, None, same=timed.same)
    yield evenness(name, per_second)
    took = replace(alternate(partial(whole, mel), None, settings.repeats), theirs=took.theirs)
    yield row(f"{name}, 10 s by load_vocoder, in blocks", took, unit, GENERATOR_GOAL, floor=floor)


def waveglow_rows(settings: Settings) -> Iterator[Row]:
    """Real-time factors of WaveGlow: three turns, and the published code only for 1 s, because it is slow."""
    ours, path = WaveGlow(WAVEGLOW), settings.peers["waveglow"]
    for name, parameter in ours.named_parameters():
        if ".end." in name:
            nn.init.normal_(parameter, 0.0, 0.01)  # initially 0, which would make every coupling the identity
    theirs = peers.published_waveglow(path, WAVEGLOW) if path else None
    peers.match(ours, theirs)
    repeats = min(settings.repeats, 3)
    for seconds in LENGTHS:
        mel = steps.mel_like(round(seconds * RATE / HOP))
        duration = mel.shape[-1] * HOP / RATE
        z, call = ours.noise(1, mel.shape[-1], torch.Generator().manual_seed(0)), None
        if theirs is not None and seconds == LENGTHS[0]:
            theirs.give_noise(z)
            call = partial(torch.no_grad()(theirs.infer), mel, sigma=0.6)
        took = alternate(partial(cpu.generate, ours, mel, z), call, repeats)
        floor = f"{gmac_of(ours, 'inverse', mel, z) / settings.peak / duration:.3f}"
        what = f"WaveGlow, {seconds} s: real-time factor, {repeats} turns"
        unit = partial(real_time, duration=duration)
        yield row(what, took, unit, WAVEGLOW_GOAL, floor=floor, same=took.same)


def evenness(name: str, per_second: list[tuple[float, float]]) -> Row:
    """The cost per second of a long wave relative to a short one, from the fastest turns."""
    (short, their_short), (long, their_long) = per_second
    ratio = long / short
    theirs = f"{their_long / their_short:.3f}" if their_short else ""
    met = "yes" if ratio <= EVEN_GOAL else f"NO, {ratio / EVEN_GOAL - 1:+.0%}"
    return [f"{name}, 10 s over 1 s, per second", f"{ratio:.3f}", theirs, "", f"≤ {EVEN_GOAL}", met, "", ""]


def step_rows(preset: str, settings: Settings) -> Iterator[Row]:
    wave = steps.speechlike(BATCH, SEGMENT)
    theirs = None
    if preset == "melgan" and (path := settings.peers["melgan"]):
        theirs = steps.melgan_step(path, wave)
    if preset != "melgan" and (path := settings.peers["hifigan"]):
        theirs = steps.hifigan_step(path, wave, hifigan.V2)
    for order, name in (("", "published order"), ("simultaneous", "one pass for both players")):
        ours = steps.our_step(preset, wave, order=order)
        floor = f"{gmac(ours) / settings.peak:.2f} s"
        took = alternate(ours, theirs, settings.repeats)
        what = f"{preset} training step, batch {BATCH} × {SEGMENT}, {name}"
        yield row(what, took, "{:.2f} s".format, STEP_GOALS[preset], floor=floor)


SCALES = (4, 4, 10)
LOCAL = LocalConfig(scales=SCALES, pad=0)
CONFIGS = {
    "30 layers, R64": WaveNetConfig(layers=30, stacks=3, residual=64, gate=128, skip=128, local=LOCAL),
    "24 layers, R128": WaveNetConfig(layers=24, stacks=4, residual=128, gate=256, skip=128, local=LOCAL),
}
GOALS = {"30 layers, R64": 35.0, "24 layers, R128": 12.0}
TOGETHER, TOGETHER_GOAL = 16, 3.0
OUR_FRAMES, THEIR_FRAMES, FRAMES_TOGETHER, CHECKED_FRAMES = 50, 2, 10, 10
"""Frames of 10 ms per call; few for the published loop, which is slow and takes equally long per sample."""
Mel = Float[Tensor, "batch n_mels frames"]


def wavenet_rows(name: str, settings: Settings) -> Iterator[Row]:
    """Generation speed of one utterance and, for the smaller network, of a batch of sixteen."""
    ours, theirs = WaveNet(CONFIGS[name]), None
    peers.amplify(ours)
    if path := settings.peers["wavenet"]:
        theirs = published_wavenet(path, CONFIGS[name])
    peers.match(ours, theirs)
    call = None
    if theirs:  # random sampling of one-hot classes
        loop = torch.no_grad()(theirs.incremental_forward)
        call = partial(loop, c=mel_for(THEIR_FRAMES), T=THEIR_FRAMES * LOCAL.hop)
    took = alternate(partial(generate, ours, mel_for(OUR_FRAMES)), call, settings.repeats)
    speed = OUR_FRAMES * LOCAL.hop / median(took.ours)
    their_speed = THEIR_FRAMES * LOCAL.hop / median(took.theirs) if theirs else None
    same, at_peak = output_difference(ours, theirs) if theirs else "", floor(ours, settings)
    yield faster(f"WaveNet, {name}: samples/s", speed, their_speed, GOALS[name], at_peak, same)
    if name == next(iter(CONFIGS)):
        took = alternate(partial(generate, ours, mel_for(FRAMES_TOGETHER, TOGETHER)), None, settings.repeats)
        all_of_them = TOGETHER * FRAMES_TOGETHER * LOCAL.hop / median(took.ours)
        what = f"WaveNet, {name}: {TOGETHER} utterances, samples/s, compared with ours of one"
        yield faster(what, all_of_them, speed, TOGETHER_GOAL, at_peak)


def published_wavenet(path: Path | str, config: WaveNetConfig) -> Any:
    (package,) = peers.published_modules(path, "wavenet_vocoder")
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
    return torch.randn(batch, LOCAL.n, frames, generator=torch.Generator().manual_seed(0)) - 4


@torch.no_grad()
def output_difference(ours: WaveNet, theirs: Any) -> str:
    """The largest difference of both networks' outputs for the same past and mel."""
    mel, classes = mel_for(CHECKED_FRAMES), torch.randint(256, (1, CHECKED_FRAMES * LOCAL.hop))
    one_hot = nn.functional.one_hot(classes, 256).float().transpose(1, 2)
    return difference(ours(classes, mel), theirs(one_hot, c=mel))


def floor(ours: WaveNet, settings: Settings) -> str:
    """Samples per second if all multiply-adds ran at the peak, which one utterance alone cannot reach."""
    n_samples = CHECKED_FRAMES * LOCAL.hop
    classes = torch.zeros(1, n_samples, dtype=torch.long)
    giga = gmac_of(ours, "forward", classes, mel_for(CHECKED_FRAMES))
    return f"{settings.peak / giga * n_samples:.0f}"


def faster(what: str, ours: float, theirs: float | None, goal: float, floor: str, same: str = "") -> Row:
    """A table row of speeds, where higher is better."""
    if theirs is None:
        return [what, f"{ours:.0f}", "not measured", "", f"≥ {goal:g} ×", "", floor, same]
    ratio = ours / theirs
    met = "yes" if ratio >= goal else f"NO, {ratio / goal - 1:+.0%}"
    return [what, f"{ours:.0f}", f"{theirs:.0f}", f"{ratio:.1f} ×", f"≥ {goal:g} ×", met, floor, same]


MEASURED: dict[str, Callable[[Settings], Iterator[Row]]] = {
    "hifigan_v1": partial(hifigan_rows, "V1"),
    "hifigan_v2": partial(hifigan_rows, "V2"),
    "hifigan_v3": partial(hifigan_rows, "V3"),
    "melgan": melgan_rows,
    "waveglow": waveglow_rows,
    "wavenet": partial(wavenet_rows, "30 layers, R64"),
    "wavenet_large": partial(wavenet_rows, "24 layers, R128"),
    "hifigan_step": partial(step_rows, "hifigan_v2"),
    "melgan_step": partial(step_rows, "melgan"),
}


if __name__ == "__main__":
    main()
