"""Synthesise waves from mels or recordings: ``python -m vocoders.synthesize SOURCE... --vocoder V --out DIR``

    python -m vocoders.synthesize mels/ --vocoder released --out made/
    python -m vocoders.synthesize speech.wav --vocoder griffin_lim --mel hifigan --out copy.wav
    python -m vocoders.synthesize talks/ --vocoder hifigan --weights generator_v1 --config v1.json --out made/
    python -m vocoders.synthesize mels/ --vocoder runs/melgan/export --batch 16 --device cuda --out made/

Sources are mels (.npy of bands × frames, .npz from --save-mel), recordings at any sample rate, or folders of
both. Each source is written to DIR/<its path within its folder>.wav at the vocoder's sample rate; the copy of
a recording has exactly its duration. Memory does not grow with length. Existing files in DIR are not replaced
unless --overwrite is given. All sources are read and checked before anything is written, and files are
written atomically. Sources that cannot be converted are skipped and reported: the exit code is 0 if all were
converted, 1 if some were skipped, 2 if none was converted.
"""

import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from data.audio import EXTENSIONS, READ_ONLY, Writer, blocks, info, resampled_length
from data.audio.destinations import plan, protect
from data.audio.reading import files_under
from data.frontends import MelConfig
from engine.arguments import Arguments
from engine.outcome import end, leaving_out, note_replaced
from engine.user_error import UserError, at_least, exits_cleanly, printable
from vocoders import mel_files
from vocoders.griffin_lim import FromMagnitudes
from vocoders.loading import load_vocoder
from vocoders.mel_files import read_mel, save_mel
from vocoders.streaming import Window, mels_of_blocks
from vocoders.vocoder import Vocoder
from vocoders.wavenet.mel_wavenet import MelWaveNet
from vocoders.wavenet.network import WaveNet
from vocoders.wavenet.sampling import Sampler

Mel = Float[Tensor, "1 n_mels _"]
Wave = Float[Tensor, "1 1 _"]
BLOCK_S = 4.0
"""Block in which recordings are read, s."""
LONGEST_S = 60.0
"""Longest source that is batched, s; longer ones are processed one by one, in pieces."""
READ_SAMPLES = 1 << 18
"""Block in which the length of recordings is checked, in samples."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One recording or mel to convert to a wave."""

    source: Path
    out: Path
    samples: int
    """Samples of the output."""
    frames: int
    """Mel frames; for a recording, its length in hops, rounded up."""


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> None:
    args, left_out = parse(argv), []
    beside = (".npz",) if args.save_mel else ()
    overwrite = args.overwrite or args.skip_existing
    pairs = plan(args.source, args.out, left_out, files_in, overwrite=overwrite, beside=beside)
    vocoder = load_vocoder(args.vocoder, args.weights, args.config, mel=args.mel, device=_device(args.device))
    args.options = options_for(vocoder, args)
    if args.save_mel:
        protect([out.with_suffix(".npz") for _, out in pairs], [source for source, _ in pairs])
    if args.skip_existing:
        pairs = [(source, out) for source, out in pairs if not out.exists()]
    jobs = examine(pairs, vocoder.mel, left_out)
    if jobs:
        note_replaced(args.out, args.out.with_suffix(".npz") if args.save_mel else None)

    began, done = time.monotonic(), []
    total = sum(job.samples for job in jobs) / vocoder.sample_rate
    with tqdm(total=round(total, 2), unit="s", unit_scale=True, disable=None) as bar:
        for group in grouped(jobs, args.batch, round(LONGEST_S * vocoder.sample_rate)):
            bar.set_description(printable(group[0].source.name))
            with leaving_out(left_out):
                if len(group) == 1:
                    synthesize(vocoder, group[0], args, bar.update)
                else:
                    synthesize_together(vocoder, group, args, bar.update)
                done += group
                for job in group:
                    bar.write(str(job.out), file=sys.stdout)
    if done:
        took = max(time.monotonic() - began, 1e-9)
        seconds = sum(job.samples for job in done) / vocoder.sample_rate
        speed = f"{seconds / took:.2f} times real time"
        print(f"{seconds:.1f} s of sound in {took:.1f} s, {speed}", file=sys.stderr)
    end(len(done), left_out)


def parse(argv: Sequence[str] | None) -> Namespace:
    """Parse the command line, and check what does not depend on the vocoder or the sources."""
    arguments = Arguments.described_by("vocoders.synthesize", __doc__)
    option = arguments.add_argument
    option("source", metavar="SOURCE", nargs="+", help="mel, recording, or folder of them")
    option("--out", type=Path, required=True, help="folder to write; for a single source also a file")
    option(
        "--vocoder",
        default="released",
        metavar="NAME",
        help="released (default), released_24k, released_hifigan, griffin_lim, hifigan, melgan, vocos,"
        " waveglow, wavenet, or the folder of a trained vocoder",
    )
    option("--weights", metavar="FILE", help="weights of the named vocoder: a published file or our folder")
    option("--config", metavar="JSON", help="the configuration published with the weights")
    option("--mel", metavar="NAME", help="mel definition, if the weights have none: hifigan, melgan, ...")
    option("--batch", type=int, default=1, metavar="N", help="sources per batch (default 1)")
    option("--seed", type=int, default=0, help="random seed, the same for every source (default 0)")
    option("--temperature", type=float, help="sampling temperature (default: waveglow 0.6, wavenet 1)")
    option(
        "--sampler",
        choices=("random", "argmax", "voiced_argmax", "mode"),
        help="wavenet: how samples are drawn (default: the vocoder's own setting, or random)",
    )
    option("--top-p", type=float, help="wavenet: total probability of the classes drawn from")
    option("--speaker", type=int, metavar="NUMBER", help="wavenet with several speakers: the speaker")
    option("--denoise", type=float, default=0.0, metavar="STRENGTH", help="subtract the vocoder's own noise")
    option("--save-mel", action="store_true", help="also write DIR/<name>.npz, the mel and its definition")
    option("--overwrite", action="store_true", help="replace existing output files")
    option("--skip-existing", action="store_true", help="skip sources with an existing output file")
    option("--device", default="cpu", help="cpu (default), cuda, ...")
    args = arguments.parse_args(argv)
    at_least(0, args, "seed", prefix="--")
    at_least(1, args, "batch", prefix="--")
    if args.temperature is not None and not args.temperature >= 0:
        raise UserError(f"--temperature {args.temperature} must be 0 or more")
    if not 0 <= args.denoise <= 10:
        raise UserError(f"--denoise {args.denoise} must be between 0 and 10; up to 0.1 is usual")
    return args


def options_for(vocoder: Vocoder, args: Namespace) -> dict[str, Any]:
    """The command line's options for ``Vocoder.stream``; refuses those that the vocoder does not have."""
    options: dict[str, Any] = {"denoise": args.denoise} if args.denoise else {}
    given = {"temperature": args.temperature, "sampler": args.sampler, "top_p": args.top_p}
    given = {name: value for name, value in given.items() if value is not None}
    if given and isinstance(vocoder.network, WaveNet | MelWaveNet):
        usual = getattr(vocoder.network.config, "sampler", Sampler())
        given["way"] = given.pop("sampler", usual.way)
        given = {"sampler": replace(usual, **given)}
    options |= given
    if args.speaker is not None:
        options["speaker"] = args.speaker
    vocoder.check_options(options)
    if isinstance(vocoder.network, WaveNet):
        known = vocoder.network.config.global_
        if known is not None and args.speaker not in range(known.n_speakers):
            raise UserError(
                f"--speaker must be a number from 0 to {known.n_speakers - 1}: this WaveNet has several "
                "speakers"
            )
        if known is None and args.speaker is not None:
            raise UserError("--speaker needs a WaveNet with several speakers: omit it for this one")
    return options


def files_in(folder: Path) -> list[Path]:
    """Every recording and mel in a folder, at any depth."""
    sources = files_under(folder, (*EXTENSIONS, *READ_ONLY, *mel_files.EXTENSIONS))
    if not sources:
        raise UserError(f"{folder} holds neither recordings nor mels (.npy, .npz)")
    return sources


def examine(pairs: Iterable[tuple[Path, Path]], mel: MelConfig, left_out: list[str]) -> list[Job]:
    """Read every source to its end, so that unusable ones are reported before any output is written."""
    jobs = []
    for source, out in pairs:
        with leaving_out(left_out):
            if mel_files.is_mel(source):
                frames = read_mel(source, mel).shape[-1]
                samples = frames * mel.hop
            else:
                sample_rate = info(source).sample_rate
                n_samples = sum(block.shape[-1] for block in blocks(source, None, READ_SAMPLES))
                samples = resampled_length(n_samples, sample_rate, mel.sample_rate)
                frames = -(-samples // mel.hop)
                if samples == 0:
                    raise UserError(f"{source} is too short: it has no samples at {mel.sample_rate} Hz")
            jobs.append(Job(source=source, out=out, samples=samples, frames=frames))
    return jobs


def _device(name: str) -> str:
    try:
        torch.zeros(1, device=name)
    except Exception as error:
        raise UserError(f"--device {name} cannot be used: {str(error).splitlines()[0]}") from None
    return name


def grouped(jobs: Sequence[Job], batch: int, longest_samples: int) -> Iterator[list[Job]]:
    """Batches of jobs of similar length; long jobs are batches of one. A batch of 1 keeps the order given."""
    if batch == 1:
        yield from ([job] for job in jobs)
        return
    short = sorted((job for job in jobs if job.samples <= longest_samples), key=lambda job: job.frames)
    yield from (short[start : start + batch] for start in range(0, len(short), batch))
    yield from ([job] for job in jobs if job.samples > longest_samples)


def pieces_of(vocoder: Vocoder, job: Job) -> Iterator[Mel]:
    """A source's mel, in pieces if it is computed from a recording."""
    if mel_files.is_mel(job.source):
        yield read_mel(job.source, vocoder.mel)
        return
    rate = vocoder.sample_rate
    yield from mels_of_blocks(blocks(job.source, rate, round(BLOCK_S * rate)), vocoder.mel)


def synthesize(vocoder: Vocoder, job: Job, args: Namespace, done: Callable[[float], Any]) -> None:
    """Convert one source, from file to file; ``done`` is called with the seconds of every piece written.

    Memory does not grow with the source's length (except with --save-mel, which holds the mel).
    """
    missing, pieces = job.samples, pieces_of(vocoder, job)
    if args.save_mel:
        pieces = list(pieces)
    with Writer(job.out, vocoder.sample_rate) as writer:
        for wave in vocoder.stream(pieces, seed=[args.seed], **args.options):
            wave = wave[..., :missing].cpu()
            missing -= wave.shape[-1]
            writer.write(wave[0])
            done(wave.shape[-1] / vocoder.sample_rate)
        # Mel definitions without padding have fewer frames than the recording has hops.
        writer.write(torch.zeros(1, missing))
    if args.save_mel:
        save_mel(job.out.with_suffix(".npz"), torch.cat(list(pieces), dim=-1), vocoder.mel)


def synthesize_together(
    vocoder: Vocoder, jobs: Sequence[Job], args: Namespace, done: Callable[[float], Any]
) -> None:
    """Convert several sources in one batch."""
    mels = [torch.cat(list(pieces_of(vocoder, job)), dim=-1) for job in jobs]
    waves = together(vocoder, mels, seed=args.seed, **args.options)
    for job, mel, wave in zip(jobs, mels, waves):
        with Writer(job.out, vocoder.sample_rate) as writer:
            writer.write(F.pad(wave.cpu()[0], (0, job.samples - wave.shape[-1])))
        if args.save_mel:
            save_mel(job.out.with_suffix(".npz"), mel, vocoder.mel)
        done(job.samples / vocoder.sample_rate)


def together(vocoder: Vocoder, mels: Sequence[Mel], *, seed: int = 0, **options: Any) -> list[Wave]:
    """Generate a wave for each mel, all with the same seed; mels must be checked beforehand.

    Shorter mels are padded with their last frame. The samples that depend on the padding, up to a halo before
    a mel's end, are generated again without it. Griffin-Lim and WaveNets, which are not faster in batches,
    process mels one by one.
    """
    lengths = [mel.shape[-1] for mel in mels]
    if isinstance(vocoder.network, FromMagnitudes | MelWaveNet | WaveNet) or len(lengths) == 1:
        return [vocoder(mel, seed=[seed], **options) for mel in mels]
    longest = max(lengths)
    batch = torch.cat([F.pad(mel, (0, longest - mel.shape[-1]), mode="replicate") for mel in mels])
    waves = vocoder(batch, seed=[seed] * len(mels), **options)
    results = []
    for mel, length, wave in zip(mels, lengths, waves.split(1)):
        result = wave[..., : length * vocoder.hop].clone()
        halo = vocoder.network.halo
        kept = max(length - halo, 0)
        if length < longest and halo:
            before = max(kept - halo, 0)
            window = Window(mel[..., before:].to(vocoder.device), kept - before, length - kept, kept)
            result[..., kept * vocoder.hop :] = vocoder.make(window, [seed], options)
        results.append(result)
    return results


if __name__ == "__main__":
    main()
