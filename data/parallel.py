"""Generate a corpus of time-aligned voices: the same sentence in several voices, with equal sample counts.

python -m data.parallel corpus --model kokoro-v1.0.int8.onnx --voices voices-v1.0.bin --groups 250

writes corpus/000/<group>_<speaker>.opus, corpus/speakers.json (the mixture of voices of each speaker) and
corpus/manifest.csv (path, speaker, text, split, duration, parallel, prosody), where the members of a group
have the same number in ``parallel``. Durations and melody are those of one voice, the group's first member;
timbres are of different voices. The validation split has separate sentences and voices. The manifest is
valid at any time; the same command resumes when interrupted, and more groups extend the corpus. Model and
voices are Kokoro's (Apache 2.0): two files from https://github.com/thewh1teagle/kokoro-onnx/releases.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
from tqdm import tqdm

from data.audio import resample, save
from data.audio.writing import CODEC_RATES
from data.manifest import Row, read_manifest, write_manifest
from data.synthetic.kokoro import MIN_VOICES, WHERE, Cast, Kokoro, cast, voices_named
from data.synthetic.sentences import built_in_lines, line_of_group, read_lines
from data.voices import claim, levelled
from engine.arguments import Arguments
from engine.files import atomic
from engine.user_error import UserError, at_least, exits_cleanly, within

SPEEDS = (0.9, 1.15)
GROUP_ADDRESS = 1_703
GROUPS_IN_A_FOLDER = 1_000
FORMATS = ("opus", "flac")


@dataclass(frozen=True, kw_only=True)
class ParallelConfig:
    """The settings that define a corpus; more groups extend it."""

    members: int = 4
    """Number of speakers per sentence."""
    prosody: tuple[str, ...] = ("af_", "am_", "bf_", "bm_")
    """Name prefixes of the voices for rhythm and melody; the texts are in their language."""
    timbres: tuple[str, ...] = ()
    """Name prefixes of the voices for timbre; empty for those of ``prosody``."""
    mixtures: int = 400
    """Number of speakers mixed from two or three voices, in addition to the voices themselves."""
    format: str = "opus"
    sample_rate: int = 24_000
    """Sample rate in Hz."""
    seed: int = 0

    def __post_init__(self) -> None:
        at_least(2, self, "members")
        at_least(0, self, "mixtures", "seed")
        within("[8000, 48000]", self, "sample_rate")
        if self.format not in FORMATS:
            raise UserError(f"format={self.format} is unknown: choose one of {', '.join(FORMATS)}")
        if self.format == "opus" and self.sample_rate not in CODEC_RATES["OPUS"]:
            known = ", ".join(map(str, CODEC_RATES["OPUS"]))
            raise UserError(f"Opus does not support sample_rate={self.sample_rate} Hz: use {known} or flac")


@dataclass(frozen=True, kw_only=True)
class Group:
    name: str
    text: str
    split: str
    prosody: str
    speed: float
    members: tuple[str, ...]
    """Speakers; the first is the voice of the prosody."""


class AlignmentError(Exception):
    """The synthesised members of a group differ in length or are silent."""


def plan_group(number: int, lines: list[str], casts: dict[str, Cast], config: ParallelConfig) -> Group:
    """Draw a group, as a function of the seed and its number."""
    text, split = line_of_group(lines, number, config.seed)
    rng = np.random.default_rng([config.seed, GROUP_ADDRESS, number])
    prosody = str(rng.choice(casts[split].prosody))
    others = [name for name in casts[split].speakers if name != prosody]
    chosen = rng.permutation(len(others))[: config.members - 1]
    return Group(
        name=f"{number:06}",
        text=text,
        split=split,
        prosody=prosody,
        speed=round(float(rng.uniform(*SPEEDS)), 3),
        members=(prosody, *(others[place] for place in chosen)),
    )


def make_parallel_corpus(
    out: Path, n_groups: int, lines: list[str], synthesizer: Kokoro, config: ParallelConfig
) -> tuple[Path, list[str]]:
    """Make or complete a corpus; returns its manifest and a message for each skipped group.

    The manifest lists only complete groups and is replaced after each, so that it can be read meanwhile and
    the command can be interrupted at any time.
    """
    if n_groups < 1:
        raise UserError(f"groups={n_groups} must be at least 1")
    casts = _casts(synthesizer, config)
    texts = hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]
    claim(out, {**asdict(config), "texts": texts, "synthesizer": synthesizer.digest})
    mixtures = {name: weights for cast in casts.values() for name, weights in cast.speakers.items()}
    with atomic(out / "speakers.json") as temporary:
        temporary.write_text(json.dumps(mixtures, indent=1))
    manifest, left_out = out / "manifest.csv", []
    rows = _whole_groups(manifest)
    with tqdm(total=n_groups, unit="group", desc="speaking") as bar:
        for number in range(n_groups):
            group = plan_group(number, lines, casts, config)
            if group.name not in rows:
                try:
                    rows[group.name] = _spoken(out, group, synthesizer, casts[group.split], config)
                    write_manifest(manifest, chain.from_iterable(rows[name] for name in sorted(rows)))
                except AlignmentError as problem:
                    left_out.append(f"group {group.name} is left out: {problem}")
                    tqdm.write(left_out[-1])
            bar.update()
    if not rows:
        raise UserError(f"none of {n_groups} groups could be synthesised: {left_out[0]}")
    return manifest, left_out


def _casts(synthesizer: Kokoro, config: ParallelConfig) -> dict[str, Cast]:
    prosody = voices_named(config.prosody, synthesizer.voices)
    timbres = voices_named(config.timbres or config.prosody, synthesizer.voices)
    if len(prosody) < MIN_VOICES:
        found = f"prosody={','.join(config.prosody)} matches {len(prosody)} voices ({', '.join(prosody)})"
        raise UserError(f"{found}; at least {MIN_VOICES} are needed, some of them for validation")
    casts = cast(prosody, timbres, config.mixtures, config.seed)
    fewest = min(len(cast.speakers) for cast in casts.values())
    if config.members > fewest:
        more = f"members={config.members} are more than the {fewest} speakers of validation"
        raise UserError(f"{more}; use more mixtures")
    return casts


def _whole_groups(manifest: Path) -> dict[str, list[Row]]:
    """Read the groups of a manifest of which all files exist."""
    groups: dict[str, list[Row]] = {}
    for row in read_manifest(manifest) if manifest.is_file() else []:
        groups.setdefault(row.extra["parallel"], []).append(row)
    return {name: rows for name, rows in groups.items() if all(row.path.is_file() for row in rows)}


def _spoken(out: Path, group: Group, synthesizer: Kokoro, cast: Cast, config: ParallelConfig) -> list[Row]:
    phonemes = synthesizer.phonemize(group.text, group.prosody)
    if not phonemes:
        raise AlignmentError(f"the synthesiser finds no phonemes in {group.text[:60]!r}")
    speak = partial(synthesizer.speak, phonemes, prosody=group.prosody, speed=group.speed)
    waves = {name: speak(timbre=cast.speakers[name]) for name in group.members}
    lengths = {name: len(wave) for name, wave in waves.items()}
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise AlignmentError(f"its synthesised members have different lengths in samples ({found})")
    if silent := [name for name, wave in waves.items() if not wave.any() or not np.isfinite(wave).all()]:
        raise AlignmentError(f"the synthesiser returned silence or NaN for {', '.join(silent)}")
    rows = []
    for name, wave in waves.items():
        folder = out / f"{int(group.name) // GROUPS_IN_A_FOLDER:03}"
        path = folder / f"{group.name}_{name}.{config.format}"
        spoken = resample(levelled(wave), synthesizer.sample_rate, config.sample_rate)
        save(path, spoken, config.sample_rate)
        extra = {"parallel": group.name, "prosody": group.prosody}
        row = Row(path=path, speaker=name, text=group.text, split=group.split, extra=extra)
        rows.append(replace(row, duration=spoken.shape[-1] / config.sample_rate))
    return rows


@exits_cleanly
def main(argv: list[str] | None = None) -> None:
    default = ParallelConfig()
    arguments = Arguments.described_by("data.parallel", __doc__)
    option = arguments.add_argument
    option("out", type=Path, help="folder to make or complete")
    option("--model", type=Path, help="Kokoro's model (.onnx)")
    option("--voices", type=Path, help="Kokoro's file of voices (.bin)")
    option("--groups", type=int, default=250, help="number of sentences (default 250)")
    option("--members", type=int, default=default.members, help="speakers per sentence (default 4)")
    option("--texts", type=Path, help="a file with one sentence per line (default: built in)")
    prosody = "name prefixes of the voices for rhythm and melody, in the language of the texts"
    prosody += " (default %(default)s: English)"
    option("--prosody", type=_prefixes, default=",".join(default.prosody), help=prosody)
    timbres = "name prefixes of the voices for timbre (default: as --prosody)"
    option("--timbres", type=_prefixes, default=(), help=timbres)
    option("--mixtures", type=int, default=default.mixtures, help="speakers mixed from voices (default 400)")
    option("--format", choices=FORMATS, default=default.format, help="format of the files")
    option("--sample-rate", type=int, default=default.sample_rate, help="Hz (default 24000, as Kokoro)")
    option("--seed", type=int, default=0, help="random seed of sentences and speakers (default 0)")
    option("--threads", type=int, default=0, help="threads of the synthesiser (default: all cores)")
    given = arguments.parse_args(argv)
    if given.model is None or given.voices is None:
        raise UserError(f"give Kokoro's model by --model and its voices by --voices; {WHERE}")
    config = ParallelConfig(**{f.name: getattr(given, f.name) for f in fields(ParallelConfig)})
    lines = read_lines(given.texts) if given.texts else built_in_lines()
    synthesizer = Kokoro(given.model, given.voices, given.threads)
    manifest, left_out = make_parallel_corpus(given.out, given.groups, lines, synthesizer, config)
    print(f"{manifest}: {given.groups - len(left_out)} groups of {config.members}, {len(left_out)} left out")


def _prefixes(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


if __name__ == "__main__":
    main()
