"""Robustness of the watermark, its false alarms and its effect on sound quality.

    python -m experiments.watermark --data SPEECH --sounds SOUNDS

Conversions by the released converter (or --checkpoint) are marked as by `w2w.convert` and detected as by
`python -m w2w.watermark`, at a false alarm rate of at most 1 in 10 000 files. SPEECH is a manifest or folder
of recordings (with texts, for error rates); --sounds has other sounds for false alarms. Scores that need an
optional package (PESQ) are omitted without it.
"""

import math
import random
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from math import erfc
from statistics import mean, median, stdev
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from benchmarks.table import in_turns, machine, show
from data.audio import audio_files, load
from data.manifest import Row, rows_from
from engine.arguments import Arguments
from engine.user_error import UserError, exits_cleanly
from eval.error_rates import error_rates
from eval.quality import DNSMOS, opinions
from eval.recognisers import Pocketsphinx
from eval.similarity import Resemblyzer, cosine
from experiments.watermark.changes import RATE, changes, has_codecs
from vocoders.scores.copies import has_pesq, log_mel_l1, pesq
from w2w import Converter
from w2w.watermark import DEFAULT_KEY, Marker
from w2w.watermark.detection import FALSE_ALARM, detect, judge, likeness, score
from w2w.watermark.echo import SPAN, gaussian_taps

Wave = Float[Tensor, "1 1 samples"]
LONGEST_S = 10.0
"""Maximum duration in seconds of the marked conversions."""
KEYS = 100
"""Number of other keys to detect in unmarked sounds, in addition to the default one."""
CONVERTED = 4
"""One in this many unmarked recordings is also converted."""


class Conversion(NamedTuple):
    """A conversion with and without watermark, its target and its text."""

    plain: Wave
    marked: Wave
    target: Float[Tensor, "1 1 target_samples"]
    """The recording that the voice was embedded from."""
    text: str
    """Text of the source; empty if unknown."""


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> None:
    args = parse(argv)
    torch.manual_seed(0)
    converter = Converter.from_pretrained(args.checkpoint)
    if converter.sample_rate != RATE:
        raise UserError(f"--checkpoint must convert at {RATE} Hz, not at {converter.sample_rate} Hz")
    rows = [row for row in rows_from(args.data) if row.duration is None or row.duration >= 1]
    random.Random(0).shuffle(rows)
    print(f"{machine()}; {args.clips} conversions of {LONGEST_S:g} s, {args.unmarked} recordings unmarked")
    pairs = conversions(converter, rows, args.clips)
    survival(converter, pairs, args.seconds)
    false_alarms(converter, rows[: args.unmarked], args.sounds)
    heads = ["score", "plain", "marked", "difference"]
    show(f"What the mark does to the sound ({len(pairs)} conversions)", heads, sound(pairs))
    show("Processor time over the sound's", ["what", "factor"], time_taken(pairs[0].marked))


def parse(argv: Sequence[str] | None) -> Namespace:
    arguments = Arguments.described_by("experiments.watermark", __doc__)
    option = arguments.add_argument
    option("--data", required=True, metavar="SPEECH", help="manifest, or folder of recordings")
    option("--sounds", metavar="FOLDER", help="other sounds, for false alarms")
    option("--checkpoint", metavar="FOLDER", help="exported converter (default: the released one)")
    option("--clips", type=int, default=40, metavar="N", help="marked conversions (default: 40)")
    option("--unmarked", type=int, default=1000, metavar="N", help="unmarked recordings (default: 1000)")
    lengths = [LONGEST_S, 5.0, 3.0, 2.0, 1.0]
    option("--seconds", type=float, nargs="+", default=lengths, help="durations to crop marked audio to")
    args = arguments.parse_args(argv)
    if args.clips < 1 or args.unmarked < 1 or not all(0 < s <= LONGEST_S for s in args.seconds):
        limits = f"--seconds above 0 and at most {LONGEST_S:g}"
        raise UserError(f"--clips and --unmarked must be at least 1, {limits}")
    args.seconds = list(dict.fromkeys(args.seconds))
    return args


def conversions(converter: Converter, rows: Sequence[Row], count: int) -> list[Conversion]:
    """Convert the longest recordings, each to the voice of another one."""
    marker, conversions = Marker(RATE), []
    long = [row for row in rows if (row.duration or LONGEST_S) >= LONGEST_S / 2]
    if len(long) < 2:
        raise UserError(f"--data must hold at least two recordings of {LONGEST_S / 2:.0f} s or more")
    long = sorted(long, key=lambda row: -(row.duration or 0.0))[:count]
    for number, row in enumerate(tqdm(long, desc="converting", leave=False, disable=None)):
        source, target = load(row.path, RATE), load(long[(number + 1) % len(long)].path, RATE)
        plain = converter.convert(source, converter.embed(target))
        conversions.append(Conversion(plain, marker.mark(plain), target, row.text or ""))
    return conversions


def survival(converter: Converter, pairs: Sequence[Conversion], lengths: Sequence[float]) -> None:
    """Print the detection rate of marked conversions after each change, cropped to each duration."""
    others = torch.cat([pair.target for pair in pairs[::-1]], dim=-1)
    others = others.repeat(1, 1, 1 + int(LONGEST_S * RATE) // others.shape[-1])
    voice = converter.embed(pairs[0].target)
    if not has_codecs():
        print("MP3, Opus and AAC are omitted: they need PyAV (pip install av)")
    table = []
    named = changes(converter, voice, others)
    for name, change in tqdm(named.items(), desc="survival", leave=False, disable=None):
        changed = [change(middle(pair.marked, LONGEST_S)) for pair in pairs]
        found = {length: [detect([middle(wave, length)]) for wave in changed] for length in lengths}
        cells = [f"{100 * mean(one.marked for one in findings):.0f} %" for findings in found.values()]
        typical = median(finding.false_alarm for finding in found[max(lengths)])
        table.append([name, *cells, f"{typical:.0e}"])
    heads = ["what was done", *(f"{length:g} s" for length in lengths), f"median p, {max(lengths):g} s"]
    show(f"Marked conversions found as such, of {len(pairs)}, by the length they were cut to", heads, table)


def middle(wave: Wave, seconds: float) -> Float[Tensor, "1 1 _"]:
    spare = max(0, wave.shape[-1] - round(seconds * RATE))
    return wave[..., spare // 2 : wave.shape[-1] - (spare - spare // 2)]


def false_alarms(converter: Converter, rows: Sequence[Row], sounds: str | None) -> None:
    """Print the false alarms on unmarked sounds and the distribution of scores."""
    kinds = {
        "recordings of speech": (load(row.path, RATE) for row in rows),
        "conversions": converted(converter, rows),
        "other sounds": (load(path, RATE) for path in audio_files(sounds)) if sounds else iter(()),
    }
    table, profiles = [], [np.zeros((0, SPAN))]
    for kind, waves in kinds.items():
        alarms = []
        for wave in tqdm(waves, desc=kind, leave=False, disable=None):
            seconds = likeness(wave)
            profiles.append(seconds.sum(0, keepdims=True))
            alarms.append(judge(seconds, DEFAULT_KEY, wave.shape[-1] / RATE).false_alarm)
        if alarms:
            values = np.array(alarms)
            below = [int((values <= limit).sum()) for limit in (0.1, 0.01, 1e-3, FALSE_ALARM)]
            table.append([kind, len(values), *below, f"{values.min():.1e}"])
    heads = ["unmarked", "files", "p ≤ .1", "≤ .01", "≤ .001", f"≤ {FALSE_ALARM:g} (alarms)", "least p"]
    show("False alarms of the default key", heads, table)

    files = np.concatenate(profiles)
    scores = np.concatenate([score(files, gaussian_taps(f"other {number}")) for number in range(KEYS)])
    rows_by_limit = []
    for limit in (2.326, 3.090, 3.719, 4.265):
        expected, beyond = 0.5 * erfc(limit / 2**0.5), int((scores > limit).sum())
        rows_by_limit.append([f"{limit:.3f}", f"{expected:.1e}", f"{beyond / len(scores):.1e}", beyond])
    heads = ["score", "chance by the normal law", "share measured", "of them"]
    show(f"Scores of {KEYS} other keys in the same files ({len(scores)} in all)", heads, rows_by_limit)


def converted(converter: Converter, rows: Sequence[Row]) -> Iterator[Wave]:
    """Yield unmarked conversions of some recordings, each to the voice of an earlier one."""
    for row, other in zip(rows[CONVERTED::CONVERTED], rows[::CONVERTED]):
        yield converter.convert(load(row.path, RATE), converter.embed(load(other.path, RATE)))


def sound(pairs: Sequence[Conversion]) -> list[list[str]]:
    """Rows of scores without and with the watermark, with differences and their 95 % intervals."""
    distances = [log_mel_l1(pair.plain, pair.marked, RATE) for pair in pairs]
    rows = [
        ["speech over mark, dB", "", "", _mean([_ratio(pair) for pair in pairs])],
        ["log-mel difference, nepers", "", "", _mean(distances)],
    ]
    if has_pesq():
        pesqs = [pesq(pair.plain, pair.marked, RATE) for pair in pairs]
        least = f"least {min(pesqs):.2f}"
        rows.append(["PESQ of marked against plain (4.64 at most)", "", f"{mean(pesqs):.3f}", least])
    quality, likeness, recogniser = DNSMOS(), Resemblyzer(), Pocketsphinx()
    opinion = [[opinions(quality(wave)) for wave in (pair.plain, pair.marked)] for pair in pairs]
    for name in ("dnsmos", "dnsmos_background"):
        rows.append(_row(name, [(plain[name], marked[name]) for plain, marked in opinion]))
    alike, same = [], []
    for pair in pairs:
        plain, marked, target = (likeness(w)["embedding"] for w in (pair.plain, pair.marked, pair.target))
        alike.append((cosine(plain, target), cosine(marked, target)))
        same.append(cosine(plain, marked))
    rows.append(_row("similarity to the target", alike))
    rows.append(["similarity of marked to plain", "", f"{mean(same):.4f}", f"least {min(same):.4f}"])
    english = [pair for pair in pairs if pair.text and pair.text.isascii()]  # as the recogniser
    rates = [[error_rates(p.text, recogniser(w))["cer"] for w in (p.plain, p.marked)] for p in english]
    if rates:
        rows.append(_row(f"CER, {len(english)} in English", [(plain, marked) for plain, marked in rates]))
    return rows


def _ratio(pair: Conversion) -> float:
    mark = (pair.marked - pair.plain).square().mean()
    return 10 * math.log10(float(pair.plain.square().mean() / mark.clamp_min(1e-20)))


def _row(name: str, values: Sequence[tuple[float, float]]) -> list[str]:
    plain, marked = (f"{mean(column):.3f}" for column in zip(*values))
    return [name, plain, marked, _mean([after - before for before, after in values])]


def _mean(values: Sequence[float]) -> str:
    if len(values) < 2:
        return f"{mean(values):.3f}"
    return f"{mean(values):.3f} ± {1.96 * stdev(values) / len(values) ** 0.5:.3f}"


def time_taken(wave: Wave) -> list[list[str]]:
    """Rows of processor seconds per second of sound on one thread: medians over repetitions."""
    calls: dict[str, tuple[Callable[[], object], float]] = {}
    for rate in (16_000, 48_000):
        marker = Marker(rate)
        sound = torch.randn(1, 1, 10 * rate) * 0.1
        calls[f"marking a file at {rate} Hz"] = partial(marker.mark, sound), 10.0
        for chunk_ms in (20, 10):
            pieces = sound[..., : 2 * rate].split(rate * chunk_ms // 1000, dim=-1)
            mark_all = lambda m=marker, p=pieces: list(m.marked(p))  # noqa: E731
            calls[f"marking chunks of {chunk_ms} ms at {rate} Hz"] = mark_all, 2.0
    calls["detecting"] = partial(detect, [wave]), wave.shape[-1] / RATE
    took = in_turns([call for call, _ in calls.values()], repeats=5)
    return [[name, f"{median(t) / calls[name][1]:.4f}"] for name, t in zip(calls, took)]


if __name__ == "__main__":
    main()
