"""Export the converter of a training run: ``python -m w2w.export RUN --out FOLDER``.

The averaged converter of the newest checkpoint is written as config.json and model.safetensors.
``--spread 1.3 --data SPEECH`` increases the differences between voices: see ``spread_voices``.

A run that trained a converter of mels is exported with a vocoder: ``--vocoder`` is ``released``,
``griffin_lim``, or the folder or training run of a vocoder, which is copied into the export. ``--statistics
CLIP`` stores a recorded clip's statistics in a network with frozen statistics.

    python -m w2w.export RUN --format onnx --chunk-ms 20 --voice her.wav --out live.onnx

writes one streaming step as a single file instead, which onnxruntime (``onnx``) or torch (``torch``) runs
without this package, as in ``w2w/exported/runtime.py``. RUN may also be an exported folder; by default, it is
the released converter for live speech.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from data.audio import load
from data.rows import split_rows
from engine.arguments import Arguments
from engine.checkpoint import export, fill, load_weights, newest_checkpoint
from engine.config import load_config
from engine.user_error import UserError, exits_cleanly
from w2w.baselines.mel_converter import export_mel_converter, is_mel_run
from w2w.converter import Converter
from w2w.networks.network import ConverterNetwork
from w2w.weights import RELEASED_LIVE, run_checkpoint


def export_run(
    run: Path,
    out: Path,
    *,
    other: Path | None = None,
    share: float = 0.5,
    spread: float = 1.0,
    data: str = "",
    vocoder: str | None = None,
    statistics: Path | None = None,
    half: bool = False,
) -> Path:
    """Write config.json and model.safetensors of a run's averaged converter; return the folder.

    ``other`` is a run of the same preset, one initialised from the other, whose weights are averaged in with
    weight ``share``: the mean of two such networks is often better than either (Wortsman et al. 2022).
    ``half`` stores weights in 16 bits, without audible difference. ``vocoder`` and ``statistics`` are for
    runs that trained a converter of mels, see ``w2w.baselines.mel_converter``.
    """
    run_checkpoint(run)  # raises if there is none
    mel = is_mel_run(run)
    given = (
        (("average", other), ("data", data)) if mel else (("vocoder", vocoder), ("statistics", statistics))
    )
    for name, value in given:
        if value:
            kind, kinds = ("of mels", "wave-to-wave") if mel else ("wave-to-wave", "of mels")
            raise UserError(f"{run} trained a converter {kind}: --{name} is for one {kinds}, leave it out")
    if mel:
        return export_mel_converter(run, out, vocoder=vocoder, statistics=statistics)
    network = averaged(run)
    if other is not None:
        theirs = averaged(other)
        if theirs.config != network.config:
            raise UserError(f"{other} trained another kind of converter than {run}: they cannot be averaged")
        for ours, their in zip(network.parameters(), theirs.parameters()):
            ours.data.lerp_(their.data, share)
    if spread != 1.0:
        spread_voices(network, spread, data)
    return export(out, network.config, network.half() if half else network)


def averaged(run: Path) -> ConverterNetwork:
    """The averaged converter of a run's newest checkpoint."""
    from w2w.train_config import TrainConfig

    checkpoint = run_checkpoint(run)
    config = load_config(TrainConfig, checkpoint / "config.json")
    network = ConverterNetwork(config.converter)
    weights = checkpoint / "converter_ema.safetensors"
    fill(network, load_weights(weights), weights)
    return network


def network_for_use(run: Path | None) -> Any:
    """The converter of a training run or an exported folder; by default, the released one for live speech."""
    if run is not None and newest_checkpoint(run) is not None and not is_mel_run(run):
        return averaged(run).eval().requires_grad_(False)
    return Converter.from_pretrained(run or RELEASED_LIVE).network


@torch.no_grad()
def spread_voices(network: ConverterNetwork, spread: float, data: str) -> None:
    """Scale the distance of every voice's timbre from the mean voice of a corpus by ``spread``.

    A style encoder places voices unseen in training too near to the mean, which this compensates. It is
    folded into the weights that compute the tokens. The mean is over one training recording of each speaker.
    Measure the effect: beyond about 1.5, voices become caricatures.
    """
    converter = Converter(network)
    first = {row.speaker or row.path: row.path for row in reversed(split_rows(data, "train"))}
    voices = [
        converter.embed(load(path, converter.sample_rate), names=[str(path)])
        for path in tqdm(first.values(), desc="embedding voices", unit="voice")
    ]
    mean = torch.cat(voices)[:, :-1].mean(0)
    value = network.style.value
    # Attention weights sum to 1, so a term added to the bias is added to the token.
    value.weight.mul_(spread)
    assert value.bias is not None
    value.bias.mul_(spread).add_((1.0 - spread) * mean)


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> None:
    from w2w.exported.files import FORMATS, add_step_options, refuse_step_options, write_step

    parser = Arguments.described_by("w2w.export", __doc__)
    parser.add_argument("run", type=Path, nargs="?", help="folder of the training run, or of an export")
    parser.add_argument("--out", type=Path, help="folder to write (default: RUN/export), or file")
    parser.add_argument(
        "--format", choices=FORMATS, default="weights", help="weights (default), or one step as a file"
    )
    add_step_options(parser)
    parser.add_argument("--average", type=Path, metavar="RUN", help="another run to average the weights with")
    parser.add_argument("--share", type=float, default=0.5, help="weight of that run (default 0.5)")
    parser.add_argument("--spread", type=float, default=1.0, help="factor of the distance to the mean voice")
    parser.add_argument("--data", default="", help="manifest or folder of speech for the mean voice")
    parser.add_argument("--half", action="store_true", help="store the weights in half precision")
    parser.add_argument("--vocoder", metavar="V", help="for a converter of mels: a name, a folder, or a run")
    parser.add_argument("--statistics", type=Path, metavar="CLIP", help="clip for mel converters' statistics")
    args = parser.parse_args(argv)
    if args.format != "weights":
        write_step(args, network_for_use)
        return
    if args.run is None:
        raise UserError("name the training run whose weights are to be exported")
    refuse_step_options(args)
    if not 0.0 < args.spread <= 3.0:
        raise UserError(f"--spread {args.spread} must be above 0 and at most 3")
    if args.spread != 1.0 and not args.data:
        raise UserError("--spread needs --data: speech whose mean voice is the centre")
    if not 0.0 <= args.share <= 1.0:
        raise UserError(f"--share {args.share} must be between 0 and 1")
    names = ("share", "spread", "data", "vocoder", "statistics", "half")
    options = {name: getattr(args, name) for name in names}
    folder = export_run(args.run, args.out or args.run / "export", other=args.average, **options)
    print(f"exported to {folder}")


if __name__ == "__main__":
    main()
