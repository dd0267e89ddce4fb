"""Kokoro (Apache 2.0), a speech synthesiser whose timbre and prosody can be taken from different voices.

It is of the kind of StyleTTS 2 (Li et al., 2023): a voice is a style for every number of tokens, whose first
half steers the decoder and whose second half steers durations, F0 and energy.
"""

import hashlib
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from engine.user_error import UserError

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

    def phonemize(self, text: str, voice: str) -> str:
        """The text's phonemes as this voice's language has them; empty where nothing can be spoken."""
        ...

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
        """The text's phonemes in espeak's alphabet, with stress and punctuation."""
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
