"""A corpus of time-aligned voices: one sentence in several voices, sample for sample as long.

python -m data.parallel corpus --model kokoro-v1.0.int8.onnx --voices voices-v1.0.bin --groups 250

leaves corpus/000/<group>_<speaker>.opus, corpus/speakers.json (of which voices each speaker is mixed) and
corpus/manifest.csv (path, speaker, text, split, duration, parallel, prosody), where members of a group have
the same number under ``parallel``. They take durations and melody from one voice, which is the first of them,
and timbre from voices of their own. Validation has sentences and voices of its own. The manifest is right at
any moment; interrupted, the same command goes on where it was, and more groups extend the corpus. Model and
voices are Kokoro's (Apache 2.0): two files from https://github.com/thewh1teagle/kokoro-onnx/releases.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from data.audio import resample, save
from data.audio.writing import CODEC_RATES
from data.manifest import Row, read_manifest, write_manifest
from data.synthetic.kokoro import (
    MIN_VOICES,
    WHERE,
    Cast,
    Kokoro,
    Synthesizer,
    cast,
    speakers_json,
    voices_named,
)
from data.synthetic.sentences import built_in_lines, line_of_group, read_lines
from data.voices import claim, levelled
from engine.arguments import Arguments
from engine.files import atomic
from engine.user_error import UserError, at_least, exits_cleanly

SPEEDS = (0.9, 1.15)
GROUP_ADDRESS = 1_703
GROUPS_IN_A_FOLDER = 1_000
FORMATS = ("opus", "flac")


@dataclass(frozen=True, kw_only=True)
class ParallelConfig:
    """What makes a corpus the one it is. More groups extend it."""

    members: int = 4
    """Voices that say each sentence."""
    prosody: tuple[str, ...] = ("af_", "am_", "bf_", "bm_")
    """How the names of the voices begin that lend rhythm and melody; the texts are in their language."""
    timbres: tuple[str, ...] = ()
    """How the names of voices begin that lend timbre; none: those that lend prosody."""
    mixtures: int = 400
    """Speakers mixed of two or three voices, beside the voices themselves."""
    format: str = "opus"
    sample_rate: int = 24_000
    """Hz."""
    seed: int = 0

    def __post_init__(self) -> None:
        at_least(2, self, "members")
        if self.mixtures < 0 or self.seed < 0:
            raise UserError(f"mixtures={self.mixtures} and seed={self.seed} must be 0 or more")
        if self.format not in FORMATS:
            raise UserError(f"format={self.format} is none of {', '.join(FORMATS)}")
        if not 8_000 <= self.sample_rate <= 48_000:
            raise UserError(f"sample_rate={self.sample_rate} Hz must lie between 8000 and 48000")
        if self.format == "opus" and self.sample_rate not in CODEC_RATES["OPUS"]:
            known = ", ".join(map(str, CODEC_RATES["OPUS"]))
            raise UserError(f"sample_rate={self.sample_rate} Hz is none that Opus knows ({known}); take flac")


@dataclass(frozen=True, kw_only=True)
class Group:
    name: str
    text: str
    split: str
    prosody: str
    speed: float
    members: tuple[str, ...]
    """Speakers; the first is the prosody's own voice."""


class AlignmentError(Exception):
    """The members of a group came out differently long, or not at all."""


def plan_group(number: int, lines: list[str], casts: dict[str, Cast], config: ParallelConfig) -> Group:
    """Draw a group; a function of the seed and its number."""
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
    out: Path,
    n_groups: int,
    lines: list[str],
    synthesizer: Synthesizer,
    config: ParallelConfig,
) -> tuple[Path, list[str]]:
    """Make or complete a corpus; returns its manifest and a sentence for each group left out.

    The manifest names whole groups only and is replaced after each, so that it can be read meanwhile and the
    work goes on after a stop at any instant.
    """
    if n_groups < 1:
        raise UserError(f"groups={n_groups} must be at least 1")
    casts = _casts(synthesizer, config)
    texts = hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]
    claim(out, {**asdict(config), "texts": texts, "synthesizer": synthesizer.digest})
    with atomic(out / "speakers.json") as temporary:
        temporary.write_text(speakers_json(casts))
    manifest, left_out = out / "manifest.csv", []
    rows = _whole_groups(manifest)
    with tqdm(total=n_groups, unit="group", desc="speaking") as bar:
        for number in range(n_groups):
            group = plan_group(number, lines, casts, config)
            if group.name not in rows:
                try:
                    rows[group.name] = _spoken(out, group, synthesizer, casts[group.split], config)
                    write_manifest(manifest, _in_order(rows))
                except AlignmentError as problem:
                    left_out.append(f"group {group.name} is left out: {problem}")
                    tqdm.write(left_out[-1])
            bar.update()
    if not rows:
        raise UserError(f"none of {n_groups} groups could be spoken: {left_out[0]}")
    return manifest, left_out


def _casts(synthesizer: Synthesizer, config: ParallelConfig) -> dict[str, Cast]:
    prosody = voices_named(config.prosody, synthesizer.voices)
    timbres = voices_named(config.timbres or config.prosody, synthesizer.voices)
    if len(prosody) < MIN_VOICES:
        raise UserError(
            f"prosody={','.join(config.prosody)} names {len(prosody)} voices ({', '.join(prosody)}); at least"
            f" {MIN_VOICES} are needed, some of them for validation"
        )
    casts = cast(prosody, timbres, config.mixtures, config.seed)
    fewest = min(len(cast.speakers) for cast in casts.values())
    if config.members > fewest:
        raise UserError(
            f"members={config.members} are more than the {fewest} speakers of validation; take more mixtures"
        )
    return casts


def _whole_groups(manifest: Path) -> dict[str, list[Row]]:
    """The groups that a manifest names and whose files are all there."""
    groups: dict[str, list[Row]] = {}
    for row in read_manifest(manifest) if manifest.is_file() else []:
        groups.setdefault(row.extra["parallel"], []).append(row)
    return {name: rows for name, rows in groups.items() if all(row.path.is_file() for row in rows)}


def _in_order(groups: dict[str, list[Row]]) -> Iterator[Row]:
    for name in sorted(groups):
        yield from groups[name]


def _spoken(
    out: Path, group: Group, synthesizer: Synthesizer, cast: Cast, config: ParallelConfig
) -> list[Row]:
    phonemes = synthesizer.phonemize(group.text, group.prosody)
    if not phonemes:
        raise AlignmentError(f"the synthesiser finds nothing to say in {group.text[:60]!r}")
    waves = {
        name: synthesizer.speak(
            phonemes, timbre=cast.speakers[name], prosody=group.prosody, speed=group.speed
        )
        for name in group.members
    }
    lengths = {name: len(wave) for name, wave in waves.items()}
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise AlignmentError(f"the synthesiser gave its members different lengths in samples ({found})")
    if silent := [name for name, wave in waves.items() if not wave.any() or not np.isfinite(wave).all()]:
        raise AlignmentError(f"the synthesiser gave no sound for {', '.join(silent)}")
    rows = []
    for name, wave in waves.items():
        folder = out / f"{int(group.name) // GROUPS_IN_A_FOLDER:03}"
        path = folder / f"{group.name}_{name}.{config.format}"
        spoken = resample(levelled(wave), synthesizer.sample_rate, config.sample_rate)
        save(path, spoken, config.sample_rate)
        rows.append(
            Row(
                path=path,
                speaker=name,
                text=group.text,
                split=group.split,
                duration=spoken.shape[-1] / config.sample_rate,
                extra={"parallel": group.name, "prosody": group.prosody},
            )
        )
    return rows


@exits_cleanly
def main(argv: list[str] | None = None) -> None:
    default = ParallelConfig()
    arguments = Arguments.described_by("data.parallel", __doc__)
    option = arguments.add_argument
    option("out", type=Path, help="folder to make or complete")
    option("--model", type=Path, help="Kokoro's model, .onnx")
    option("--voices", type=Path, help="its file of voices, .bin")
    option("--groups", type=int, default=250, help="sentences to speak (default 250)")
    option("--members", type=int, default=default.members, help="voices that say each (default 4)")
    option("--texts", type=Path, help="a file with a sentence a line (default: built in)")
    option(
        "--prosody",
        default=",".join(default.prosody),
        help="how the names begin of voices that lend rhythm and melody, and in whose language the texts are"
        " (default %(default)s: English)",
    )
    option(
        "--timbres", default="", help="how the names begin of voices that lend timbre (default: as --prosody)"
    )
    option("--mixtures", type=int, default=default.mixtures, help="speakers mixed of voices (default 400)")
    option("--format", choices=FORMATS, default=default.format, help="of the files")
    option("--sample-rate", type=int, default=default.sample_rate, help="Hz (default 24000, Kokoro's own)")
    option("--seed", type=int, default=0, help="decides who says what (default 0)")
    option("--threads", type=int, default=0, help="of the synthesiser (default: all cores)")
    given = arguments.parse_args(argv)
    if given.model is None or given.voices is None:
        raise UserError(f"name Kokoro's model by --model and its voices by --voices; {WHERE}")
    config = ParallelConfig(
        members=given.members,
        prosody=_prefixes(given.prosody),
        timbres=_prefixes(given.timbres),
        mixtures=given.mixtures,
        format=given.format,
        sample_rate=given.sample_rate,
        seed=given.seed,
    )
    lines = read_lines(given.texts) if given.texts else built_in_lines()
    synthesizer = Kokoro(given.model, given.voices, given.threads)
    manifest, left_out = make_parallel_corpus(given.out, given.groups, lines, synthesizer, config)
    print(f"{manifest}: {given.groups - len(left_out)} groups of {config.members}, {len(left_out)} left out")


def _prefixes(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


if __name__ == "__main__":
    main()
