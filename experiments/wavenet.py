"""WaveNet in digital silence, trained with and without noise of one 16-bit step, and five sampling methods.

    python -m experiments.wavenet --data speech --out runs/wavenet_study
    python -m experiments.wavenet --data speech --vocoder runs/wavenet/export

Digital silence teaches a WaveNet scales near 0, but its samples are never exactly 0, an input unseen in
training. Two small networks, conditioned on mels, are trained on waves of which a random half is digital
silence: one with noise of one 16-bit step added to the waves, the other without, all else being equal. Both
then synthesise recordings that end in digital silence. After that, one network (--vocoder, by default the one
trained with noise) copies recordings with five sampling methods, scored separately on voiced and unvoiced
frames. Finished runs in OUT are kept; interrupted ones resume.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from benchmarks.table import show
from data.audio import excerpt
from data.batches import Batches
from data.frontends import LogMel
from data.rows import split_rows
from engine.arguments import Arguments
from engine.user_error import UserError, at_least, exits_cleanly
from experiments.study import Study, Training
from experiments.trainers import run_loop
from vocoders import load_vocoder
from vocoders.scores.pitch import pitch_track
from vocoders.tasks.config import TrainConfig, export_run
from vocoders.tasks.presets import PRESETS
from vocoders.tasks.wavenet import WaveBatch, WaveNetTaskConfig
from vocoders.train import build, crops
from vocoders.wavenet.distributions import LSB, Gaussian, MuLaw, delay, split
from vocoders.wavenet.mel_wavenet import MelWaveNet, MelWaveNetConfig
from vocoders.wavenet.sampling import Sampler

Wave = Float[Tensor, "1 1 samples"]
RUNS = {"noise of one step": True, "no noise": False}
"""Whether noise is added to the training waves, by name of the run."""
SAMPLERS = {
    "random": Sampler(),
    "argmax": Sampler(way="argmax"),
    "voiced argmax, unvoiced random": Sampler(way="voiced_argmax"),
    "mode (voiced sharpened)": Sampler(way="mode"),
    "random at temperature .7": Sampler(temperature=0.7),
}
"""Sampling methods by name."""
PAUSE_S = 0.8
"""Seconds of digital silence appended to each recording."""
SETTLED_S = 0.1
"""Seconds excluded at both ends of the pause."""


def study_config(data: str, lsb_noise: bool) -> TrainConfig:
    """A WaveNet on waves, with a Gaussian output that allows scales far below a 16-bit step."""
    base = PRESETS["wavenet_small"]
    assert isinstance(base.task, WaveNetTaskConfig)
    assert isinstance(base.task.network, MelWaveNetConfig)
    output = Gaussian(log_scale_min=-14.0)
    wavenet = replace(base.task.network.wavenet, residual=16, gate=32, output=output, lsb_noise=lsb_noise)
    network = replace(base.task.network, signal="wave", wavenet=wavenet)
    # A constant learning rate, which is the amount by which log-scales fall per step.
    optim = replace(base.task.optim, schedule="constant")
    task = replace(base.task, network=network, optim=optim, ema_decay=0.98)
    return replace(base, data=replace(base.data, path=data, crop_samples=2_400, batch=2), task=task)


def training(data: str, lsb_noise: bool, folder: Path, steps: int) -> Training:
    config = study_config(data, lsb_noise)
    config = replace(config, loop=run_loop(config.loop, folder, steps))
    source = crops(config, 0, 1)
    assert isinstance(source, Batches)

    def with_pauses(start: int) -> Iterator[WaveBatch]:
        for step, batch in enumerate(source(start), start):
            yield WaveBatch(half_silent(batch.wave, step))

    return Training(config=config, batches=with_pauses, build=lambda: build(config, []), export=export_run)


def half_silent(wave: Float[Tensor, "batch 1 samples"], seed: int) -> Float[Tensor, "batch 1 samples"]:
    """Replace half of every wave by digital silence, from a random position, wrapping around its end."""
    samples = wave.shape[-1]
    first = torch.randint(samples, (len(wave), 1, 1), generator=torch.Generator().manual_seed(seed))
    return wave * ((torch.arange(samples) - first) % samples >= samples // 2)


@torch.inference_mode()
def in_silence(network: MelWaveNet, log_mel: LogMel, waves: Sequence[Wave]) -> dict[str, float]:
    """Measure a network's output in digital silence after speech, averaged over recordings.

    ``level``: level of its samples in dBFS. ``diverged``: fraction of recordings with a pause that reaches a
    tenth of full scale. ``scale``: median predicted scale given the true past, in 16-bit steps;
    ``scale_heard``: given its own samples. ``speech``: loss on the preceding speech in nats per sample.
    """
    rate, output = log_mel.config.sample_rate, network.config.wavenet.output
    assert not isinstance(output, MuLaw)
    measured: list[dict[str, float]] = []
    for number, speech in enumerate(waves):
        wave = F.pad(speech, (0, round(PAUSE_S * rate)))
        mel, settled = log_mel(wave), round(SETTLED_S * rate)
        inside = slice(speech.shape[-1] + settled, wave.shape[-1] - settled)
        drawn = network(mel, seed=number)
        scales = {}
        for name, past in {"scale": wave, "scale_heard": drawn}.items():
            parameters = network.wavenet(delay(output, past), network.condition(mel))
            scales[name] = float(split(output, parameters)[2][..., inside].exp().median() / LSB)
        silence = drawn[..., inside]
        measured.append(
            {
                "level": float(20 * silence.square().mean().sqrt().clamp_min(1e-7).log10()),
                "diverged": float(silence.abs().max() >= 0.1),
                **scales,
                "speech": float(network.loss(speech, log_mel(speech), 3 * network.hop)),
            }
        )
    return {name: mean(values[name] for values in measured) for name in measured[0]}


@torch.inference_mode()
def sampling_scores(
    generate: Callable[..., Wave], log_mel: LogMel, waves: Sequence[Wave], sampler: Sampler
) -> dict[str, tuple[float, float]]:
    """Return mean scores of copies over voiced and unvoiced frames of the recordings.

    ``log_mel_l1`` is in nepers; ``level`` (dB) and ``periodicity`` (-1 to 1) are copy minus recording.
    """
    sums: dict[str, Tensor] = defaultdict(partial(torch.zeros, 2))
    counts = torch.zeros(2)
    rate = log_mel.config.sample_rate
    for number, wave in enumerate(waves):
        mel = log_mel(wave)
        copy = generate(mel, seed=number, sampler=sampler)
        true, original, drawn = pitch_track(wave, rate), mel[0], log_mel(copy)[0]
        periodicity = torch.from_numpy(pitch_track(copy, rate).periodicity - true.periodicity)
        frames = min(original.shape[-1], drawn.shape[-1], len(periodicity), len(true.voiced))
        voiced = torch.from_numpy(true.voiced)[:frames]
        kinds = torch.stack([voiced, ~voiced]).float()
        difference = (drawn - original)[:, :frames]
        columns = {
            "log_mel_l1": difference.abs().mean(0),
            "level": difference.mean(0) * 20 / 2.302585,
            "periodicity": periodicity[:frames].float(),
        }
        for name, column in columns.items():
            sums[name] += kinds @ column
        counts += kinds.sum(1)
    return {name: tuple((total / counts.clamp_min(1)).tolist()) for name, total in sums.items()}


def recordings(data: str, split_name: str, n: int, log_mel: LogMel) -> list[Wave]:
    """The first two seconds of ``n`` recordings spread over a split, cropped to whole frames."""
    config, rows = log_mel.config, split_rows(data, split_name)
    n_samples = 2 * config.sample_rate // config.hop * config.hop
    spread = rows[:: max(len(rows) // n, 1)][:n]
    waves = [excerpt(row.path, 0, n_samples, config.sample_rate) for row in spread]
    return [wave[..., : wave.shape[-1] // config.hop * config.hop] for wave in waves]


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> None:
    arguments = Arguments.described_by("experiments.wavenet", __doc__)
    option = arguments.add_argument
    option("--data", required=True, help="corpus, or its manifest")
    option("--out", type=Path, default=Path("runs/wavenet_study"))
    option("--steps", type=int, default=1_500, help="steps of each run")
    option("--recordings", type=int, default=8, help="number of recordings to synthesise")
    option("--split", default="validation", help="split of the recordings")
    option("--vocoder", help="exported WaveNet to compare sampling methods with; then nothing is trained")
    args = arguments.parse_args(argv)
    at_least(1, args, "steps", "recordings", prefix="--")
    study = Study(out=args.out, options={"data": args.data}, steps=args.steps)
    networks: dict[str, Any] = {}
    for name, noise in ({} if args.vocoder else RUNS).items():
        study.train(name, partial(training, args.data, noise))
        networks[name] = load_vocoder(str(study.folder(name) / "export"))
    speaker = load_vocoder(args.vocoder) if args.vocoder else networks[next(iter(RUNS))]
    if not isinstance(speaker.network, MelWaveNet):
        raise UserError(f"--vocoder {args.vocoder} is not a WaveNet, which sampling methods need")
    log_mel = LogMel(speaker.mel)
    waves = recordings(args.data, args.split, args.recordings, log_mel)
    if networks:
        found = {name: in_silence(vocoder.network, log_mel, waves) for name, vocoder in networks.items()}
        rows = [[name, *cells(values.values())] for name, values in found.items()]
        heads = ["trained with", "level, dBFS", "diverged", "scale, 16-bit steps", "after its own samples"]
        title = f"{PAUSE_S} s of digital silence behind {len(waves)} recordings, {args.steps} steps"
        show(title, [*heads, "speech"], rows)
    rows = []
    for name, sampler in SAMPLERS.items():
        scores = sampling_scores(speaker.network, log_mel, waves, sampler)
        rows.append([name, *cells(value for pair in scores.values() for value in pair)])
    measures = ("log-mel L1", "louder, dB", "periodicity above")
    heads = [f"{what}, {kind}" for what in measures for kind in ("voiced", "unvoiced")]
    show(f"Ways of sampling, {len(waves)} recordings", ["", *heads], rows)


def cells(values: Iterable[float]) -> list[str]:
    return [f"{value:.3g}" for value in values]


if __name__ == "__main__":
    main()
