"""Kokoro, which speaks sentences in voices of its own and in mixtures of them.

It is of the kind of StyleTTS 2 (Li et al., 2023): a voice is a style for every number of tokens, whose first
half steers the decoder and whose second half steers durations, F0 and energy.
"""

import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from engine.user_error import UserError

CAST_ADDRESS = 1_701
HELD_OUT = 0.1
"""Share of voices and mixtures that validation alone hears."""
BEYOND, MOST_BEYOND = 0.15, 0.25
"""Share of mixtures that lie outside two voices, and how far at most."""
MIN_VOICES = 4
"""Fewer would leave validation without a mixture."""
Weights = Mapping[str, float]
"""Of voices; they sum to 1."""


@dataclass(frozen=True, kw_only=True)
class Cast:
    """Who speaks in one split."""

    prosody: tuple[str, ...]
    """Voices that lend rhythm and melody."""
    speakers: Mapping[str, Weights]
    """By name: these voices, others that lend timbre alone, and mixtures."""


def cast(prosody: Sequence[str], timbres: Sequence[str], n_mixtures: int, seed: int) -> dict[str, Cast]:
    """The casts of train and validation: their voices differ, and their mixtures are of their own voices."""
    rng = np.random.default_rng([seed, CAST_ADDRESS])
    leaders, followers = sorted(prosody), sorted(set(timbres) - set(prosody))
    held_out = _drawn(rng, leaders, 2) | _drawn(rng, followers, 0)
    n_held_out = round(HELD_OUT * n_mixtures)
    casts, first = {}, 0
    for split, count in {"train": n_mixtures - n_held_out, "validation": n_held_out}.items():
        names = [name for name in (*leaders, *followers) if (name in held_out) == (split == "validation")]
        mixtures = {f"blend_{first + number:04}": _mixture(rng, names) for number in range(count)}
        casts[split] = Cast(
            prosody=tuple(name for name in names if name in leaders),
            speakers={**{name: {name: 1.0} for name in names}, **mixtures},
        )
        first += count
    return casts


def voices_named(prefixes: Sequence[str], voices: Sequence[str]) -> list[str]:
    """The voices whose names begin with one of the prefixes, each of which must name one."""
    for prefix in prefixes:
        if not any(voice.startswith(prefix) for voice in voices):
            raise UserError(f"no voice's name begins with {prefix!r}; there are {', '.join(voices)}")
    return [voice for voice in voices if voice.startswith(tuple(prefixes))]


def speakers_json(casts: Mapping[str, Cast]) -> str:
    """Who is mixed of whom: name → voice → weight."""
    return json.dumps(
        {name: weights for cast in casts.values() for name, weights in cast.speakers.items()}, indent=1
    )


def _drawn(rng: np.random.Generator, voices: list[str], at_least: int) -> set[str]:
    count = max(at_least, round(HELD_OUT * len(voices)))
    return {voices[place] for place in rng.permutation(len(voices))[:count]}


def _mixture(rng: np.random.Generator, voices: list[str]) -> dict[str, float]:
    beyond = rng.random() < BEYOND
    count = 2 if beyond else min(len(voices), int(rng.integers(2, 4)))
    names = [voices[place] for place in rng.permutation(len(voices))[:count]]
    if beyond:
        excess = rng.uniform(0, MOST_BEYOND)
        weights = np.array([1 + excess, -excess])
    else:
        weights = rng.dirichlet(np.ones(count))
    return {name: round(float(weight), 4) for name, weight in zip(names, weights)}


TIMBRE = 128
"""Leading numbers of a style that steer the decoder; the others steer durations, F0 and energy."""
STYLE = 256
LANGUAGES = {
    "a": "en-us",
    "b": "en-gb",
    "e": "es",
    "f": "fr-fr",
    "h": "hi",
    "i": "it",
    "j": "ja",
    "p": "pt-br",
    "z": "cmn",
}
"""espeak's language by the first letter of a voice's name."""
WHERE = "https://github.com/thewh1teagle/kokoro-onnx/releases has both files"
MAX_TOKENS = 510
Style = Float[np.ndarray, "1 256"]


@runtime_checkable
class Synthesizer(Protocol):
    """Speaks in many voices, one voice's timbre with another's prosody."""

    voices: tuple[str, ...]
    sample_rate: int
    """Hz."""
    digest: str
    """Tells one edition of model and voices from another."""

    def phonemize(self, text: str, voice: str) -> str: ...

    def speak(
        self, phonemes: str, *, timbre: Mapping[str, float], prosody: str, speed: float
    ) -> Float[np.ndarray, "samples"]:
        """Say phonemes in a weighted sum of voices; length and F0 depend on prosody and speed alone."""
        ...


class Kokoro:
    """The synthesiser from its two files, by the library kokoro-onnx, on the CPU."""

    sample_rate = 24_000

    def __init__(self, model: Path, voices: Path, threads: int = 0) -> None:
        try:
            import kokoro_onnx
        except ImportError:
            raise UserError("Kokoro's voices need kokoro-onnx: pip install 'timbre[synth]'") from None
        # It notes at every sentence that espeak joins words.
        logging.getLogger("phonemizer").setLevel(logging.ERROR)
        self._styles = _styles(voices)
        self.voices = tuple(sorted(self._styles))
        self._model = kokoro_onnx.Kokoro.from_session(_session(model, threads), str(voices))
        self.digest = hashlib.sha256(model.read_bytes() + voices.read_bytes()).hexdigest()[:12]

    def phonemize(self, text: str, voice: str) -> str:
        phonemes = self._model.tokenizer.phonemize(text, LANGUAGES[voice[0]])
        return phonemes if any(symbol.isalpha() for symbol in phonemes) else ""

    def speak(
        self, phonemes: str, *, timbre: Mapping[str, float], prosody: str, speed: float
    ) -> Float[np.ndarray, "samples"]:
        """Say phonemes; length and F0 depend on the prosody's voice and the speed alone."""
        n_tokens = len(self._model.tokenizer.tokenize(phonemes))
        style = self._style(timbre, prosody, n_tokens)
        # Untrimmed: silence is cut by level, which timbre changes.
        wave, _ = self._model.create(
            phonemes,
            voice=style[None],
            speed=speed,
            is_phonemes=True,
            trim=False,
            sentence_pause=0.0,
            clause_pause=0.0,
        )
        return wave

    def _style(self, timbre: Mapping[str, float], prosody: str, n_tokens: int) -> Style:
        row = min(n_tokens, MAX_TOKENS - 1)
        mixed = sum(weight * self._styles[name][row] for name, weight in timbre.items())
        return np.concatenate(
            [np.asarray(mixed)[:, :TIMBRE], self._styles[prosody][row][:, TIMBRE:]], axis=1
        ).astype(np.float32)


def _session(path: Path, threads: int):
    import onnxruntime

    _check_file(path, "model")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or os.cpu_count() or 1
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception:  # each kind of damage has an exception of its own
        raise UserError(f"{path} is not an ONNX model; {WHERE}") from None
    inputs = {node.name: node.shape for node in session.get_inputs()}
    if "speed" not in inputs or list(inputs.get("style", [])) != [1, STYLE]:
        raise UserError(
            f"{path} is an ONNX model but not Kokoro's, as its inputs are {', '.join(inputs)}; {WHERE}"
        )
    return session


def _styles(path: Path) -> dict[str, Float[np.ndarray, "rows 1 256"]]:
    _check_file(path, "file of voices")
    try:
        with np.load(path) as archive:
            styles = {name: archive[name] for name in archive.files}
    except Exception:  # a zip's, numpy's or pickle's, by where it is damaged
        styles = {}
    shape = (MAX_TOKENS, 1, STYLE)
    if not styles or any(s.shape != shape or name[0] not in LANGUAGES for name, s in styles.items()):
        raise UserError(f"{path} does not hold Kokoro's voices (named arrays of {shape} numbers); {WHERE}")
    return styles


def _check_file(path: Path, what: str) -> None:
    if not path.is_file():
        raise UserError(f"there is no {what} {path}; {WHERE}")
