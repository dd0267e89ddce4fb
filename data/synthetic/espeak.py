"""Interface to the espeak-ng library by ctypes: text to phonemes, and to speech with phoneme times.

The library is GPL-3 and an optional extra (``pip install 'timbre[synth]'``), loaded only when used. Its
state, including the phase of the vocal tremor, is in static variables that cannot be reset. Therefore it is
loaded anew for every call (some milliseconds), so that the output depends only on the arguments.
"""

import _ctypes
import contextlib
import ctypes
import re
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from engine.user_error import UserError

SYNCHRONOUS, PHONEME_EVENTS, IPA_EVENTS, DONT_EXIT = 2, 1, 2, 0x8000
UTF8, IPA = 1, 2
SEPARATED = ord("_") << 8
RATE, VOLUME, PITCH, RANGE = 1, 2, 3, 4
UNCLIPPED = 50
"""Volume at which the loudest variants stay below full scale; the library's default is 100."""
END, PHONEME = 0, 7
STRESS = str.maketrans("", "", "ˈˌ")
WORD_END = "|"
"""Separator of words in the result of ``phonemize``."""


class Phoneme(NamedTuple):
    symbol: str
    """IPA symbol without stress; empty for a pause."""
    start: float
    """Start in seconds."""
    end: float
    """End in seconds."""


class _Id(ctypes.Union):
    _fields_ = (("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8))


class _Event(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _Id),
    )


_Callback = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event)
)
_Text = ctypes.POINTER(ctypes.c_char_p)
# Position, its kind, end position, flags, identifier, user data.
_SYNTH_FLAGS = (*[ctypes.c_uint, ctypes.c_int, ctypes.c_uint, ctypes.c_uint], *[ctypes.c_void_p] * 2)
_lock = threading.Lock()


def synthesize(
    text: str, voice: str, *, pitch: int = 50, pitch_range: int = 50, words_per_minute: int = 160
) -> tuple[np.ndarray, list[Phoneme], int]:
    """Synthesise a text; returns float32 samples, the phonemes with their times, and the sample rate in Hz.

    ``voice`` is a language, optionally with a variant, such as ``en-us+f2``; ``pitch`` and ``pitch_range``
    range from 0 to 100, where 50 is the voice's default.
    """
    samples: list[np.ndarray] = []
    marks: list[tuple[int, str]] = []

    def receive(wave: Any, n_samples: int, events: Any) -> int:
        if wave and n_samples > 0:
            samples.append(np.ctypeslib.as_array(wave, (n_samples,)).copy())
        at = 0
        while events[at].type != END:
            if events[at].type == PHONEME:
                symbol = events[at].id.string.decode("utf-8", "ignore").translate(STRESS)
                marks.append((events[at].sample, symbol))
            at += 1
        return 0

    callback = _Callback(receive)
    with _loaded() as (library, sample_rate):
        _set_voice(library, voice)
        settings = {VOLUME: UNCLIPPED, PITCH: pitch, RANGE: pitch_range, RATE: words_per_minute}
        for parameter, value in settings.items():
            library.espeak_SetParameter(parameter, value, 0)
        library.espeak_SetSynthCallback(callback)
        encoded = text.encode() + b"\0"
        failed = library.espeak_Synth(encoded, len(encoded), 0, 1, 0, UTF8, None, None)
    if failed or not samples:
        raise UserError(f"espeak cannot synthesise {text[:40]!r} with voice {voice}")
    wave = np.concatenate(samples).astype(np.float32) / 32_768
    ends = [start for start, _ in marks[1:]] + [len(wave)]
    phonemes = [
        Phoneme(symbol, start / sample_rate, end / sample_rate)
        for (start, symbol), end in zip(marks, ends)
        if end > start
    ]
    return wave, phonemes, sample_rate


def phonemize(texts: list[str], language: str = "en-us") -> list[str]:
    """Convert texts to IPA without stress: phonemes separated by spaces, words by ``|``: ``ð ə | b ɔɪ``."""
    phonemes = []
    with _loaded() as (library, _):
        _set_voice(library, language)
        for text in texts:
            place, clauses = ctypes.c_char_p(text.encode()), []
            while place.value:  # one clause per call
                clause = library.espeak_TextToPhonemes(ctypes.byref(place), UTF8, IPA | SEPARATED)
                clauses.append(clause.decode())
            # "(fr)" and similar marks indicate foreign words.
            words = re.sub(r"\([a-z-]+\)", "", " ".join(clauses)).translate(STRESS).split()
            spelled = (" ".join(filter(None, word.split("_"))) for word in words)
            phonemes.append(f" {WORD_END} ".join(filter(None, spelled)))
    return phonemes


def _set_voice(library: ctypes.CDLL, voice: str) -> None:
    # The library ignores unknown variants, but not unknown languages.
    if library.espeak_SetVoiceByName(voice.encode()):
        raise UserError(f"espeak has no voice {voice!r}; use a language such as en-us, or en-us+f2")


@contextlib.contextmanager
def _loaded() -> Iterator[tuple[ctypes.CDLL, int]]:
    """Load the library in its initial state; yields it with its sample rate in Hz."""
    try:
        import espeakng_loader
    except ImportError:
        raise UserError("espeak voices need espeakng-loader: pip install 'timbre[synth]'") from None
    with _lock:
        library = ctypes.CDLL(espeakng_loader.get_library_path())
        try:
            library.espeak_TextToPhonemes.restype = ctypes.c_char_p
            library.espeak_TextToPhonemes.argtypes = [_Text, ctypes.c_int, ctypes.c_int]
            library.espeak_Synth.argtypes = [ctypes.c_char_p, ctypes.c_size_t, *_SYNTH_FLAGS]
            data = str(espeakng_loader.get_data_path()).encode()
            options = PHONEME_EVENTS | IPA_EVENTS | DONT_EXIT
            sample_rate = library.espeak_Initialize(SYNCHRONOUS, 0, data, options)
            if sample_rate <= 0:
                raise UserError("espeak-ng did not start: pip install --force-reinstall espeakng-loader")
            with contextlib.suppress(AttributeError, TypeError):  # not in every C library
                ctypes.CDLL(None).srand(1)  # for the noise of breathy voices
            yield library, sample_rate
            library.espeak_Terminate()
        finally:
            if hasattr(_ctypes, "dlclose"):
                _ctypes.dlclose(library._handle)
