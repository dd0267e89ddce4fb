"""Speech synthesis by Kokoro, with its voices and mixtures of them.

Kokoro is similar to StyleTTS 2 (Li et al., 2023): a voice is one style vector per number of tokens, of which
the first half conditions the decoder and the second half durations, F0 and energy.
"""

import hashlib
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from engine.user_error import UserError

CAST_ADDRESS = 1_701
HELD_OUT = 0.1
"""Fraction of voices and mixtures reserved for validation."""
BEYOND, MOST_BEYOND = 0.15, 0.25
"""Fraction of mixtures that extrapolate beyond two voices, and the maximum extrapolation."""
MIN_VOICES = 4
"""Minimum number of voices with which validation has mixtures."""
Weights = Mapping[str, float]
"""Weights of voices in a mixture; they sum to 1."""


@dataclass(frozen=True, kw_only=True)
class Cast:
    """The voices and speakers of one split."""

    prosody: tuple[str, ...]
    """Voices for rhythm and melody."""
    speakers: Mapping[str, Weights]
    """Speakers by name: these voices, others used only for timbre, and mixtures."""


def cast(prosody: Sequence[str], timbres: Sequence[str], n_mixtures: int, seed: int) -> dict[str, Cast]:
    """Draw the casts of train and validation, whose voices and mixtures are disjoint."""
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
    """Return the voices with one of the name prefixes; raise for a prefix without voices."""
    for prefix in prefixes:
        if not any(voice.startswith(prefix) for voice in voices):
            raise UserError(f"no voice's name begins with {prefix!r}; there are {', '.join(voices)}")
    return [voice for voice in voices if voice.startswith(tuple(prefixes))]


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
"""Leading elements of a style that condition the decoder; the others condition durations, F0 and energy."""
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


class Kokoro:
    """Kokoro on the CPU, from its two files, by the library kokoro-onnx."""

    sample_rate = 24_000
    voices: tuple[str, ...]
    digest: str
    """Hash of the model and voices."""

    def __init__(self, model: Path, voices: Path, threads: int = 0) -> None:
        try:
            import kokoro_onnx
        except ImportError:
            raise UserError("Kokoro's voices need kokoro-onnx: pip install 'timbre[synth]'") from None
        # Suppresses a warning at every sentence that espeak joins words.
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
        """Synthesise phonemes with a mixture of voices; length and F0 depend only on prosody and speed."""
        n_tokens = len(self._model.tokenizer.tokenize(phonemes))
        style = self._style(timbre, prosody, n_tokens)
        # Not trimmed, because trimming depends on the level, which depends on the timbre.
        options: Any = {"is_phonemes": True, "trim": False, "sentence_pause": 0.0, "clause_pause": 0.0}
        return self._model.create(phonemes, voice=style[None], speed=speed, **options)[0]

    def _style(self, timbre: Mapping[str, float], prosody: str, n_tokens: int) -> Style:
        row = min(n_tokens, MAX_TOKENS - 1)
        mixed = sum(weight * self._styles[name][row] for name, weight in timbre.items())
        parts = [np.asarray(mixed)[:, :TIMBRE], self._styles[prosody][row][:, TIMBRE:]]
        return np.concatenate(parts, axis=1).astype(np.float32)


def _session(path: Path, threads: int):
    import onnxruntime

    _check_file(path, "model")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or os.cpu_count() or 1
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception:  # damaged files raise many types
        raise UserError(f"{path} is not an ONNX model; {WHERE}") from None
    inputs = {node.name: node.shape for node in session.get_inputs()}
    if "speed" not in inputs or list(inputs.get("style", [])) != [1, STYLE]:
        found = f"an ONNX model but not Kokoro, because its inputs are {', '.join(inputs)}"
        raise UserError(f"{path} is {found}; {WHERE}")
    return session


def _styles(path: Path) -> dict[str, Float[np.ndarray, "rows 1 256"]]:
    _check_file(path, "file of voices")
    try:
        with np.load(path) as archive:
            styles = {name: archive[name] for name in archive.files}
    except Exception:  # damaged files raise errors of zip, numpy or pickle
        styles = {}
    shape = (MAX_TOKENS, 1, STYLE)
    if not styles or any(s.shape != shape or name[0] not in LANGUAGES for name, s in styles.items()):
        raise UserError(f"{path} does not hold Kokoro's voices (named arrays of {shape} numbers); {WHERE}")
    return styles


def _check_file(path: Path, what: str) -> None:
    if not path.is_file():
        raise UserError(f"there is no {what} {path}; {WHERE}")
