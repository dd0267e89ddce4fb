"""Take the converter for use out of a training run: ``python -m w2w.export RUN --out FOLDER``.

What is exported is the averaged converter of the newest checkpoint, as config.json and model.safetensors.
With ``--spread 1.3 --data SPEECH`` voices are told apart more boldly than in training: see ``spread_voices``.

A run that trained a converter of mels is exported with what speaks for it: ``--vocoder`` is ``released``,
``griffin_lim``, or the folder or training run of a vocoder, which is copied into the export. ``--statistics
CLIP`` keeps a recorded clip's statistics in a network of frozen ones.

    python -m w2w.export RUN --format onnx --chunk-ms 20 --voice her.wav --out live.onnx

writes one live step as one file instead, which onnxruntime (``onnx``) or torch (``torch``) runs without this
package: ``w2w/exported/runtime.py`` does so. RUN may also be an exported folder; without it, the
released converter for live speech is written.
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

    ``other`` is a run of the same preset, one begun from the other, whose weights count for ``share``: the
    mean of two such networks is often better than either (Wortsman et al. 2022). ``half`` stores weights in
    16 bits, which no ear can tell. ``vocoder`` and ``statistics`` are for runs that trained a converter of
    mels, see ``w2w.baselines.mel_converter``.
    """
    run_checkpoint(run)  # or a sentence that there is none
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
    """The converter of a training run, an exported folder, or what is released for live speech."""
    if run is not None and newest_checkpoint(run) is not None and not is_mel_run(run):
        return averaged(run).eval().requires_grad_(False)
    return Converter.from_pretrained(run or RELEASED_LIVE).network


@torch.no_grad()
def spread_voices(network: ConverterNetwork, spread: float, data: str) -> None:
    """Move every voice's timbre away from the mean voice of a corpus, ``spread`` times as far as it was.

    A style encoder that never met a voice places it too near to the mean; going further makes up for it. It
    is folded into the weights that draw the tokens. The mean is over one training recording of each speaker.
    Measure what you choose: beyond some 1.5 it is a caricature.
    """
    converter = Converter(network)
    first = {row.speaker or str(row.path): row.path for row in reversed(split_rows(data, "train"))}
    voices = [
        converter.embed(load(path, converter.sample_rate), names=[str(path)])
        for path in tqdm(first.values(), desc="hearing voices", unit="voice")
    ]
    mean = torch.cat(voices)[:, :-1].mean(0)
    value = network.style.value
    # Attention weights sum to 1, so what is added to the bias is added to the token.
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
        "--format", choices=FORMATS, default="weights", help="weights (default), or a live step as one file"
    )
    add_step_options(parser)
    parser.add_argument("--average", type=Path, metavar="RUN", help="another run to average the weights with")
    parser.add_argument("--share", type=float, default=0.5, help="of that run in the average (default 0.5)")
    parser.add_argument("--spread", type=float, default=1.0, help="how much further from the mean voice")
    parser.add_argument("--data", default="", help="manifest or folder that the mean voice is taken from")
    parser.add_argument("--half", action="store_true", help="store the weights in half precision")
    parser.add_argument("--vocoder", metavar="V", help="of a converter of mels: a word, a folder, or a run")
    parser.add_argument("--statistics", type=Path, metavar="CLIP", help="to freeze a converter of mels with")
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
        raise UserError("--spread needs --data: speech whose mean voice it moves away from")
    if not 0.0 <= args.share <= 1.0:
        raise UserError(f"--share {args.share} must be between 0 and 1")
    out, mixed = args.out or args.run / "export", {"other": args.average, "share": args.share}
    moved = {"spread": args.spread, "data": args.data}
    speaks = {"vocoder": args.vocoder, "statistics": args.statistics}
    folder = export_run(args.run, out, **mixed, **moved, **speaks, half=args.half)
    print(f"exported to {folder}")


if __name__ == "__main__":
    main()
