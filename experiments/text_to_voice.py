"""How well voices from words match the words: ``python -m experiments.text_to_voice --data SPEECH``

    python -m experiments.text_to_voice --converter released --data speech --out words.md

Recordings of the test split are converted to voices described in words, and the outputs are measured: pitch
by WORLD's Harvest, gender by a probe of Resemblyzer embeddings trained on the train split, brightness and
roughness by the measures that captions are based on. Voices from drawn faces are tested likewise. The last
column has the chance level or the value of real recordings.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from scipy.stats import spearmanr
from torch import Tensor

from data.audio import excerpt
from data.audio.resampling import resample
from data.manifest import Row
from data.rows import split_rows
from data.synthetic.faces import draw_face
from data.voice_captions import Age, Gender, Traits, describe, fit_scale, traits_of
from engine.arguments import Arguments
from engine.table import markdown
from engine.user_error import UserError, exits_cleanly
from eval.pitch import harvest, log_mean
from eval.similarity import SAMPLE_RATE, Resemblyzer
from w2w.converter import Converter
from w2w.words.known_voices import KnownVoices, embed_recordings, measured

SOURCE_S, UNSETTLED_S = 4.0, 0.6
LEVELS = {-2: "very {}", -1: "{}", 1: "{}", 2: "very {}"}
POLES = {
    "pitch": ("semitones", "low", "high"),
    "roughness": ("dB of noise", "smooth", "rough"),
    "brightness": ("octaves of centroid", "dark", "bright"),
}
"""Unit and opposite words of each measured trait."""
PEOPLE: dict[Gender, str] = {"F": "woman", "M": "man"}
Line = list[str]
"""Table row: measure, value, and chance level or value of real recordings."""
AGED: dict[Age, str] = {"young": "young person", "adult": "adult person", "old": "old person"}


class Spoken(NamedTuple):
    """Measures of outputs with one voice, averaged over sources."""

    pitch: float
    """Mean F0 in semitones relative to 100 Hz."""
    brightness: float
    roughness: float
    female: float
    """Fraction of outputs that the probe classifies as female; NaN if not measured."""


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> None:
    parser = Arguments.described_by("experiments.text_to_voice", __doc__)
    option = parser.add_argument
    option("--converter", default="released", metavar="FOLDER", help="exported converter (default: released)")
    option("--words", metavar="FOLDER", help="its mapping to words (default: next to its weights)")
    option("--data", required=True, metavar="SPEECH", help="manifest with splits, speakers and genders")
    option("--sources", type=int, default=4, help="test recordings per voice (default 4)")
    option("--speakers", type=int, default=100, help="speakers of the train split to use (default 100)")
    option("--faces", type=int, default=24, help="faces to draw (default 24)")
    option("--out", type=Path, help="file to write the table to")
    args = parser.parse_args(argv)
    if args.sources < 1 or args.faces < 8 or args.speakers < 10:
        raise UserError("--sources must be at least 1, --faces at least 8 and --speakers at least 10")
    Resemblyzer().check()
    converter = Converter.from_pretrained(args.converter, words=args.words)
    train, test = one_each(split_rows(args.data, "train"))[: args.speakers], split_rows(args.data, "test")
    probe = GenderProbe(train)
    speech = Speech(converter, one_each(test)[: args.sources], probe)
    right = [probe.female(clip(row)) == (row.gender == "F") for row in gendered(one_each(test))]
    real, unseen = embed_recordings(converter, train), embed_recordings(converter, test)
    lines = [
        ["gender probe on recordings of unseen speakers", percent(right), "50 %"],
        *followed(speech),
        *named(speech),
        *seen(speech, args.faces),
        *likeness_to_real(converter, real, unseen),
        *found_by_words(converter, real, unseen),
    ]
    print(table := markdown(["measure", "value", "reference"], lines))
    if args.out:
        args.out.write_text(table + "\n")


def one_each(rows: Sequence[Row]) -> list[Row]:
    """The first recording of each speaker that is longer than two seconds or of unknown duration."""
    clips: dict[str, Row] = {}
    for row in rows:
        if row.duration is None or row.duration > 2.0:
            clips.setdefault(row.speaker or str(row.path), row)
    return list(clips.values())


def gendered(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row.gender in ("F", "M")]


class GenderProbe:
    """Logistic regression on Resemblyzer embeddings, fitted to one recording per labelled speaker."""

    def __init__(self, rows: Sequence[Row]) -> None:
        from sklearn.linear_model import LogisticRegression

        rows = gendered(rows)
        women = [row.gender == "F" for row in rows]
        if len(set(women)) < 2:
            raise UserError("--data must have women and men with a gender column in its train split")
        self.embedder = Resemblyzer()
        # C corresponds to a weight of 0.001 on squared weights, relative to the mean cross-entropy.
        self.classifier = LogisticRegression(C=500 / len(rows), max_iter=1000)
        self.classifier.fit(np.stack([self.embedder(clip(row))["embedding"] for row in rows]), women)

    def female(self, wave: Float[Tensor, "1 1 samples"]) -> bool:
        return bool(self.classifier.predict(self.embedder(wave)["embedding"][None])[0])


def clip(row: Row, rate: int = SAMPLE_RATE) -> Float[Tensor, "1 1 samples"]:
    return excerpt(row.path, 0, round(SOURCE_S * rate), rate)


class Speech:
    """Converts the same recordings to any voice and measures the outputs."""

    def __init__(self, converter: Converter, sources: Sequence[Row], probe: GenderProbe) -> None:
        self.converter, self.probe = converter, probe
        self.unsettled = round(UNSETTLED_S * converter.sample_rate)
        self.sources = [clip(row, converter.sample_rate) for row in sources]

    def __call__(self, voice: Float[Tensor, "1 dim"], *, gender: bool = False) -> Spoken:
        outputs = []
        for source in self.sources:
            wave = self.converter.convert(source, voice)
            wave = resample(wave[..., self.unsettled :], self.converter.sample_rate, SAMPLE_RATE)
            log_f0 = log_mean(harvest(wave[0, 0].double().numpy()))
            try:
                measures = measured(wave, SAMPLE_RATE, float(voice[0, -1]))
            except UserError:  # no voiced frames in the output
                continue
            if math.isnan(log_f0):
                continue
            semitones = 12 * (log_f0 - math.log(100.0)) / math.log(2.0)
            female = float(self.probe.female(wave)) if gender else math.nan
            outputs.append(Spoken(semitones, measures.brightness, measures.roughness, female))
        if not outputs:
            raise UserError("no converted test recording has voiced frames")
        return Spoken(*(float(value) for value in np.array(outputs).mean(0)))


def followed(speech: Speech) -> list[Line]:
    """Whether pitch, roughness and brightness follow the words, for women and men."""
    lines = []
    for trait, (unit, little, much) in POLES.items():
        differences, ranks = [], []
        for person in PEOPLE.values():
            words = [form.format(little if level < 0 else much) for level, form in LEVELS.items()]
            voices = [speech.converter.embed_text(f"a {person} with a {word} voice") for word in words]
            values = [getattr(speech(voice), trait) for voice in voices]
            differences.append((values[2] + values[3] - values[0] - values[1]) / 2)
            ranks.append(rank_correlation(np.array(list(LEVELS)), np.array(values)))
        gap = ", ".join(f"{value:+.2f}" for value in differences)
        rank = f"{np.mean(ranks):.2f}"
        lines.append([f"{much} against {little}, women, men: {unit}", gap, "0"])
        lines.append([f"rank correlation of requested and measured {trait}", rank, "0 by chance"])
    return lines


def named(speech: Speech) -> list[Line]:
    """Whether the probe recognises women and men, also with other attributes in the words."""
    right, pitches = [], {}
    for gender, person in PEOPLE.items():
        texts = (f"a {person}", f"an old {person}, low and rough")
        texts += (f"a young {person} with a bright voice", f"a {person} with a high voice")
        outputs = [speech(speech.converter.embed_text(text), gender=True) for text in texts]
        right += [one.female if gender == "F" else 1 - one.female for one in outputs]
        pitches[person] = outputs[0].pitch
    gap = pitches["woman"] - pitches["man"]
    return [
        ["outputs classified as the requested gender", percent(right), "50 % by chance"],
        ["a woman above a man, semitones", f"{gap:+.1f}", "0"],
    ]


def seen(speech: Speech, count: int) -> list[Line]:
    """Whether voices from drawn faces match the drawn gender, age and pitch."""
    rng = np.random.default_rng(23)
    converter, right, age, pitch = speech.converter, list[float](), [], []
    for number in range(count):
        gender: Gender = "F" if number % 2 else "M"
        wanted = list(AGED)[number % 3]
        voice = converter.embed_image(draw_face(Traits(gender=gender, age=wanted), rng))
        spoken = speech(voice, gender=True)
        right.append(spoken.female if gender == "F" else 1 - spoken.female)
        # The age whose description fits the face's voice best.
        scores = converter.tie.likeness(voice, [f"a {AGED[name]}" for name in AGED])[0]
        age.append(list(AGED)[int(scores.argmax())] == wanted)
        level = int(rng.integers(-2, 3))
        traits = Traits(gender=gender, pitch=level, roughness=0, brightness=0, melody=0)
        drawn = converter.embed_image(draw_face(traits, rng))
        pitch.append((gender, level, float(drawn[0, -1])))
    ranks = [
        rank_correlation(*(np.array([row[k] for row in pitch if row[0] == gender]) for k in (1, 2)))
        for gender in PEOPLE
    ]
    return [
        ["drawn faces: outputs of the face's gender", percent(right), "50 % by chance"],
        ["drawn faces: the voice's words name the face's age", percent(age), "33 % by chance"],
        ["drawn voices: rank correlation of pitch", f"{np.mean(ranks):.2f}", "0 by chance"],
    ]


def percent(shares: Sequence[float]) -> str:
    return f"{100 * np.mean(shares):.0f} %"


def rank_correlation(a: Float[np.ndarray, "n"], b: Float[np.ndarray, "n"]) -> float:
    """Spearman's rank correlation; 0 if either input is constant."""
    return float(spearmanr(a, b)[0]) if np.ptp(a) and np.ptp(b) else 0.0  # pyright: ignore


def likeness_to_real(converter: Converter, real: KnownVoices, others: KnownVoices) -> list[Line]:
    """Similarity of voices from words to the nearest real voice, compared with unseen and random voices."""
    people = ("a man", "a woman", "an old man, low and rough", "a young woman with a bright voice", "a child")
    plain = torch.cat([converter.embed_text(text) for text in people])
    varied = torch.cat([converter.embed_text(text, variety=1.0, seed=s) for text in people for s in range(8)])
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(64, real.voice.shape[1], generator=generator)
    random = real.voice.mean(0) + real.voice.std(0) * noise
    kinds = (plain, varied, others.voice, random)
    of_plain, of_varied, of_unseen, of_random = (f"{nearest(kind, real.voice):.2f}" for kind in kinds)
    of_one, usual = (F.pdist(voices[:, :-1]).mean() for voices in (varied[:8], real.voice))
    shown = f"{of_plain}; variety 1: {of_varied}"
    reference = f"unseen speakers {of_unseen}, random numbers {of_random}"
    spread, between = f"{float(of_one / usual):.2f}", "1: between two real speakers"
    return [
        ["likeness (cosine) to the nearest of the train split's voices", shown, reference],
        ["distance between voices that variety 1 makes for one sentence", spread, between],
    ]


def nearest(voices: Float[Tensor, "n dim"], real: Float[Tensor, "others dim"]) -> float:
    """Mean cosine of mean-centred timbres to the nearest real voice."""
    mean = real.mean(0)[:-1]
    a, b = (F.normalize(v[:, :-1] - mean, dim=-1) for v in (voices, real))
    return float((a @ b.T).amax(-1).mean())


def found_by_words(converter: Converter, real: KnownVoices, others: KnownVoices) -> list[Line]:
    """Retrieval of captions by unseen voices, and accuracy of their gender words."""
    scale = fit_scale(real.measures, real.gender)
    rng = np.random.default_rng(29)
    traits = [traits_of(k.measures, scale, gender=k.gender) for k in others.known]
    captions = [describe(replace(one, melody=None), rng) for one in traits]
    likeness = converter.tie.likeness(others.voice, captions)
    n, rank = len(captions), (likeness > likeness.diagonal()[:, None]).sum(-1)
    hits = ", ".join(percent((rank < k).tolist()) for k in (1, 5, 10))
    chance = ", ".join(percent([min(1.0, k / n)]) for k in (1, 5, 10))
    woman, man = converter.tie.likeness(others.voice, ["a woman", "a man"]).T
    genders = zip((woman > man).tolist(), others.known)
    right = percent([nearer == (speaker.gender == "F") for nearer, speaker in genders if speaker.gender])
    return [
        [f"voice finds its caption among {n} of unseen speakers: R@1, 5, 10", hits, chance],
        ["unseen speakers' voices nearer to their gender's word", right, "50 % by chance"],
    ]


if __name__ == "__main__":
    main()
