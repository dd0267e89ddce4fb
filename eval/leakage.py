"""How much of the speaker a content code still tells.

    python -m eval.leakage --converter FOLDER --data speech

A content code should hold the words and not the voice. A probe is taught to name the speaker from the code's
mean and deviation over an utterance's audible frames, on the train split; it is asked about other utterances
of the same speakers, from the validation split. Log-mels are asked the same beside it, and chance is one in
the number of speakers. Lower is better for a code, as long as the words survive; a random code leaks, too.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from tqdm import tqdm

from data.audio import load
from data.causal_mel import CausalLogMel, frame_energy
from data.manifest import Row, rows_from
from engine.arguments import Arguments
from engine.user_error import UserError, exits_cleanly
from eval.outputs import load_converter
from eval.scoring import interval
from w2w.networks.network import ConverterNetwork

SAMPLE_RATE = 16_000
"""Hz of the log-mels, and of what tells audible frames from pauses."""
HUSH = 4.6
"""Frames this far below an utterance's loudest (natural log, 40 dB) are pauses."""
HIDDEN = 128
"""Units of the small network that probes beside the linear one."""
N_MELS = 80

Wave = Float[Tensor, "1 1 samples"]
Frames = Float[Tensor, "1 channels frames"]
Representation = Callable[[Wave], Frames]
"""From a wave to frames of any number of channels at any rate."""
Vectors = Float[Tensor, "utterances dim"]
Labels = Int[Tensor, "utterances"]


@dataclass(frozen=True, kw_only=True)
class Leak:
    """How well speakers are told from one representation; shares of the held-out utterances."""

    linear: float
    """By a linear probe."""
    mlp: float
    """By a network of one hidden layer."""
    low: float
    """Lower bound of the linear probe's 95 % interval."""
    high: float
    """Its upper bound."""
    chance: float
    """One in the number of speakers."""
    n_speakers: int
    """That the probe tells apart."""
    n_held_out: int
    """Utterances it was asked about."""


class Utterances(NamedTuple):
    """What a probe learns from and is asked about."""

    train: list[Row]
    held_out: list[Row]
    speakers: list[str]


def speaker_leakage(
    heard: Mapping[str, tuple[int, Representation]],
    data: Path | str,
    *,
    per_speaker: int = 0,
    seed: int = 0,
    progress: bool = True,
) -> dict[str, Leak]:
    """Probe several representations, each given as the sample rate and the function of a wave.

    ``per_speaker`` is the most utterances of a speaker that a probe learns from; 0: all.
    """
    told = utterances(data, per_speaker=per_speaker)
    label = {name: number for number, name in enumerate(told.speakers)}
    rows, n_train = [*told.train, *told.held_out], len(told.train)
    labels = torch.tensor([label[row.speaker or ""] for row in rows])
    found = {}
    for name, (rate, represent) in heard.items():
        bar = tqdm(rows, desc=f"probing {name}", unit="utterance", disable=not progress)
        vectors = torch.stack([summary(represent, load(row.path, rate), rate) for row in bar])
        split = (vectors[:n_train], labels[:n_train], vectors[n_train:], labels[n_train:])
        right = {hidden: probe(*split, hidden=hidden, seed=seed) for hidden in (0, HIDDEN)}
        bounds = interval(right[0].double().numpy())
        found[name] = Leak(
            linear=bounds["mean"],
            mlp=float(right[HIDDEN].double().mean()),
            low=bounds["low"],
            high=bounds["high"],
            chance=1 / len(told.speakers),
            n_speakers=len(told.speakers),
            n_held_out=len(told.held_out),
        )
    return found


def utterances(data: Path | str, *, per_speaker: int = 0) -> Utterances:
    """Speakers with two utterances or more in the train split and one or more in the validation split."""
    by_split: dict[str, dict[str, list[Row]]] = {"train": {}, "validation": {}}
    for row in sorted(rows_from(data), key=lambda row: row.path.as_posix()):
        if row.speaker and row.split in by_split:
            by_split[row.split].setdefault(row.speaker, []).append(row)
    train, held_out = by_split["train"], by_split["validation"]
    speakers = sorted(name for name in held_out if len(train.get(name, ())) >= 2)
    if len(speakers) < 2:
        raise UserError(
            f"{data}: the probe needs two speakers with two utterances in split train and one in validation, "
            f"and there are {len(speakers)}: add speaker and split columns to its manifest"
        )
    drawn = []
    for number, name in enumerate(speakers):
        order = np.random.default_rng([0, number]).permutation(len(train[name]))
        drawn += [train[name][i] for i in order[: per_speaker or None]]
    return Utterances(drawn, [row for name in speakers for row in held_out[name]], speakers)


@torch.inference_mode()
def summary(represent: Representation, wave: Wave, sample_rate: int) -> Float[Tensor, " two_channels"]:
    """Mean and deviation over the audible frames, one after the other."""
    frames = represent(wave)[0].float().cpu()
    analysis = CausalLogMel(sample_rate, sample_rate // 100, sample_rate // 25, N_MELS)
    energy = F.interpolate(frame_energy(analysis(wave)), frames.shape[-1])[0, 0]
    frames = frames[:, energy > energy.max() - HUSH]
    return torch.cat([frames.mean(-1), frames.std(-1, correction=0)])


def probe(
    train: Vectors,
    labels: Labels,
    held_out: Float[Tensor, "held_out dim"],
    truth: Int[Tensor, "held_out"],
    *,
    hidden: int = 0,
    seed: int = 0,
) -> Tensor:
    """Teach a linear probe, or one with a hidden layer; return where it is right about what it never saw."""
    mean, deviation = train.mean(0), train.std(0).clamp_min(1e-5)
    train, held_out = (train - mean) / deviation, (held_out - mean) / deviation
    n_speakers, dim = int(labels.max()) + 1, train.shape[1]
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        net = nn.Linear(dim, n_speakers)
        # From zero, since what the speakers do not differ in would keep its random weights.
        nn.init.zeros_(net.weight)
        if hidden:
            body = (nn.Linear(dim, hidden), nn.ReLU(), nn.Dropout(0.3))
            net = nn.Sequential(*body, nn.Linear(hidden, n_speakers))
        optimiser = torch.optim.AdamW(net.parameters(), lr=1e-2, weight_decay=0.1)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 300)
        with torch.enable_grad():
            for _ in range(300):
                loss = F.cross_entropy(net(train), labels)
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                schedule.step()
        net.eval()
        with torch.no_grad():
            return net(held_out).argmax(-1) == truth


def content_code(network: ConverterNetwork) -> tuple[int, Representation]:
    """A converter's content code."""
    device = next(network.parameters()).device
    return network.config.sample_rate, lambda wave: network.content(network.lead(wave.to(device))).code


def log_mel() -> tuple[int, Representation]:
    """What any encoder could have heard, at its plainest."""
    return SAMPLE_RATE, CausalLogMel(SAMPLE_RATE, SAMPLE_RATE // 100, SAMPLE_RATE // 25, N_MELS)


def table(found: Mapping[str, Leak]) -> str:
    """The probes' results in Markdown."""
    first = next(iter(found.values()))
    lines = [
        f"{first.n_speakers} speakers, {first.n_held_out} utterances not heard before; share named rightly\n",
        "| representation | linear probe (95 % interval) | network |",
        "| --- | --- | --- |",
    ]
    for name, leak in found.items():
        lines.append(f"| {name} | {leak.linear:.3f} ({leak.low:.3f} – {leak.high:.3f}) | {leak.mlp:.3f} |")
    return "\n".join([*lines, f"| chance | {first.chance:.3f} | {first.chance:.3f} |"])


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> None:
    """Probe converters' content codes beside log-mels."""
    parser = Arguments.described_by("eval.leakage", __doc__)
    parser.add_argument("--converter", action="append", required=True, metavar="FOLDER",
                        help="a trained converter, or `released`; may be given several times")  # fmt: skip
    parser.add_argument("--data", type=Path, required=True, help="manifest with speakers and splits")
    parser.add_argument("--per-speaker", type=int, default=0, help="most utterances learned from; 0: all")
    words = parser.parse_args(argv)
    if words.per_speaker < 0 or words.per_speaker == 1:
        raise UserError(f"--per-speaker {words.per_speaker} must be 0 (all), or 2 or more")
    heard = {folder: content_code(load_converter(folder).network) for folder in words.converter}
    print(table(speaker_leakage({**heard, "log-mel": log_mel()}, words.data, per_speaker=words.per_speaker)))


if __name__ == "__main__":
    main()
