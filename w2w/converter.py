"""The converter's public interface: load it, embed a voice, convert to it."""

import math
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from data.audio.checking import check_floats, check_rate, check_wave
from data.audio.hum import without_hum
from engine.checkpoint import fill, load_weights
from engine.user_error import UserError
from w2w.networks.network import ConverterNetwork
from w2w.networks.wave_network import WaveNetwork, check_voice
from w2w.recording import FITTED_S, check_audible, convert_whole, mean_log_f0, parts, richest
from w2w.stream import Engine, Stream, check_streams
from w2w.weights import is_mel_converter, load_converter, weights_folder

if TYPE_CHECKING:
    from w2w.words.tied import Tie

Wave = Float[Tensor, "1 1 samples"]
Clip = Float[Tensor, "1 1 _"]
"""A wave of its own length."""
Voice = Float[Tensor, "1 dim"]

OWN_VOICE = "voice.safetensors"
"""File next to fine-tuned weights that holds their speaker's voice."""
BLOCK_S = 4.0
"""Seconds converted at once: long enough to keep a CPU busy, short enough to bound memory."""


class Converter:
    """Converts any source to any voice, wave to wave.

    Waves are mono, at ``sample_rate``, nominally in [-1, 1]. No state is kept between calls.
    """

    def __init__(
        self, network: WaveNetwork, *, words: Path | None = None, folder: Path | None = None
    ) -> None:
        self.network: Any = network.eval().requires_grad_(False)
        self.config = network.config
        self.words = words
        """Folder of the tie to words (`python -m w2w.tie`), loaded on first use."""
        self.folder = folder
        """Folder that the weights were loaded from."""

    @classmethod
    def from_pretrained(
        cls,
        where: str | Path | None = None,
        *,
        device: str = "cpu",
        words: str | Path | None = None,
        vocoder: str | Path | None = None,
    ) -> "Converter":
        """Load an exported folder, an exported run, or ``hub:owner/name``; by default ``released``.

        ``released_live`` is for live speech, at a lower latency; voices of one do not fit the other.

        ``words`` is the folder that ties voices to words, if it is not the one next to the weights.
        ``vocoder`` replaces the vocoder of a converter of mels: ``released``, ``griffin_lim``, or a
        vocoder's folder or run.
        """
        folder = weights_folder(where)
        if is_mel_converter(folder):
            from w2w.baselines.mel_converter import open_mel_converter

            return cls(open_mel_converter(folder, vocoder, device), words=Path(words) if words else None)
        if vocoder is not None:
            raise UserError(
                f"the converter in {folder} goes from wave to wave and needs no vocoder: leave {vocoder} out"
            )
        config, state = load_converter(folder)
        network = ConverterNetwork(config)
        fill(network, state, folder / "model.safetensors")
        default = folder / "words"
        tied = Path(words) if words else default if default.is_dir() else None
        return cls(network.to(device), words=tied, folder=folder)

    def push_to_hub(self, name: str, **options: Any) -> str:
        """Upload the converter's folder, with its model card, to the hub; see ``w2w.publish``."""
        from w2w.publish import Published

        if self.folder is None:
            raise UserError("this converter was not loaded from a folder: export it and load the export")
        return Published(self.folder).push_to_hub(name, **options)

    @property
    def sample_rate(self) -> int:
        """Sampling rate of input and output waves in Hz."""
        return self.network.sample_rate

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    @torch.inference_mode()
    def embed(self, clips: Clip | Sequence[Clip], *, names: Sequence[str] = ()) -> Voice:
        """Embed the voice of one clip, or the mean over several; its last entry is the mean log-F0.

        ``names`` are the clips' names in error messages.
        """
        given: list[Any] = list(clips) if isinstance(clips, list | tuple) else [clips]
        if not given:
            raise UserError("no reference clip was given; a voice needs at least one")
        voices = []
        for number, clip in enumerate(given):
            name = names[number] if names else f"reference clip {number + 1}"
            check_wave(clip, name)
            check_audible(clip, self.sample_rate, name)
            weighted = [
                weight * self.network.style(without_hum(part, self.sample_rate).to(self.device))
                for part, weight in parts(clip, self.sample_rate)
            ]
            voices.append(torch.stack(weighted).sum(0))
        return torch.stack(voices).mean(0)

    def fit(self, voice: Voice, clips: Sequence[Clip], *, steps: int | None = None) -> Voice:
        """Fit a voice to clips of its speaker by their reconstruction; about ten seconds on one core.

        ``steps`` is the number of gradient descent steps on the voice's timbre (None: 100, 0: none). Fitted
        voices are kept in the user's cache. A converter of mels returns the voice unchanged.
        """
        from w2w.voice_fitting import fit

        if not isinstance(self.network, ConverterNetwork):
            return voice
        check_voice(self.network, voice)
        for number, clip in enumerate(clips, start=1):
            check_wave(clip, f"clip {number}")
        clips = [without_hum(richest(clip, self.sample_rate, FITTED_S), self.sample_rate) for clip in clips]
        return fit(self.network, voice, clips, steps=steps)

    def voice(self, name: str, *, fit_steps: int | None = 0) -> Voice:
        """A voice by its name, from the gallery or the user's own voices (`timbre voices` lists them).

        ``own`` is the voice that this converter was fine-tuned to. ``fit_steps`` is ``steps`` of ``fit``.
        """
        from w2w.gallery.named import embed

        if name == "own" and self.folder is not None and (self.folder / OWN_VOICE).is_file():
            return load_weights(self.folder / OWN_VOICE)["voice"]
        return embed(self, name, fit_steps)

    def embed_text(self, text: str, *, variety: float = 0.0, seed: int | None = None) -> Voice:
        """Make a voice from words, such as "an old man, low and rough".

        ``variety`` 0 gives the most likely voice, always the same; 1 draws one of the many that fit, and 2,
        the maximum, one that is further off. The same ``seed`` draws the same voice.
        """
        return self.tie.from_text(text, variety=variety, seed=seed)

    def embed_image(
        self, picture: str | Path | Tensor, *, variety: float = 0.0, seed: int | None = None
    ) -> Voice:
        """Make a voice that fits a picture: a file, or a uint8 tensor (3, height, width)."""
        return self.tie.from_image(picture, variety=variety, seed=seed)

    def describe(self, voice: Voice, *, count: int = 5) -> list[tuple[str, float]]:
        """The words that fit a voice best, with their cosine similarities."""
        check_voice(self.network, voice)
        return self.tie.describe(voice, count=count)

    @cached_property
    def tie(self) -> "Tie":
        """The maps between voices and words or pictures."""
        from w2w.words.tied import Tie, voices_key

        if not isinstance(self.network, ConverterNetwork):
            raise UserError(
                "this converter is not tied to words, nor can it be, since it converts mels: take a voice"
                " from speech (--reference), or a wave-to-wave converter"
            )
        if self.words is None:
            raise UserError(
                "this converter is not tied to words: make a folder of words by `python -m w2w.tie` and name"
                " it by words= or --words"
            )
        return Tie.load(self.words, converter_key=voices_key(self.network.style))

    @staticmethod
    def blend(voices: Sequence[Voice], weights: Sequence[float]) -> Voice:
        """Weighted mean of voices, of both timbre and log-F0."""
        if len(voices) != len(weights) or not voices:
            raise UserError("a blend needs as many weights as voices, and at least one")
        total = sum(weights)
        if not math.isfinite(total) or min(weights) < 0 or total <= 0:
            raise UserError("weights of a blend must be finite, 0 or more, and not all 0")
        return torch.stack([voice * (weight / total) for voice, weight in zip(voices, weights)]).sum(0)

    @torch.inference_mode()
    def source_log_f0(self, source: Clip) -> float | None:
        """Mean log F0 of a source at the converter's rate, for ``convert``; None if unknown or unused."""
        return mean_log_f0(self.network, source)

    def convert(
        self,
        source: Wave,
        voice: Voice,
        *,
        semitones: float = 0.0,
        sample_rate: int | None = None,
        source_log_f0: float | None = None,
    ) -> Wave:
        """Convert the source to a voice; the result has exactly as many samples as the source.

        ``sample_rate`` is that of source and result, if it is not the converter's. With the source's mean log
        F0 (``source_log_f0``), F0 is right from the start; without it, the result is that of a stream, which
        estimates the mean on the way. Memory beyond source and result does not grow with their length.
        """
        check_wave(source, "the source")
        check_voice(self.network, voice, semitones)
        blocks = source.split(round(BLOCK_S * self._rate(sample_rate)), dim=-1)
        options = {"semitones": semitones, "sample_rate": sample_rate, "source_log_f0": source_log_f0}
        return torch.cat(list(self.pieces(blocks, voice, **options)), dim=-1)

    @torch.inference_mode()
    def pieces(
        self,
        chunks: Iterable[Clip],
        voice: Voice,
        *,
        semitones: float = 0.0,
        sample_rate: int | None = None,
        source_log_f0: float | None = None,
    ) -> Iterator[Clip]:
        """Convert a source that comes in chunks of any length, yielding pieces as they are ready.

        A converter that cannot stream (``network.needs_whole`` is the reason) waits for the last chunk.
        """
        if not self.network.streams:
            source, rate = torch.cat(list(chunks), dim=-1), self._rate(sample_rate)
            yield from convert_whole(self.network, source, voice, semitones, rate, source_log_f0)
            return
        # For long steps, torch is as fast as ONNX Runtime and needs no exported graph.
        live = self.stream(
            voice, self.network.hop, semitones=semitones, sample_rate=sample_rate, engine="eager"
        )
        if source_log_f0 is not None:
            live.state = live.state._replace(network=self.network.begin(1, source_log_f0))
        for chunk in chunks:
            piece = live.push(chunk)
            if piece.shape[-1]:
                yield piece
        yield live.flush()

    def stream(
        self,
        voice: Float[Tensor, "batch dim"],
        chunk_samples: int = 320,
        *,
        semitones: float = 0.0,
        sample_rate: int | None = None,
        engine: Engine | str | None = None,
    ) -> Stream:
        """Convert live, chunk by chunk; the output equals ``convert`` of the whole source.

        Chunks are at ``sample_rate`` (8 to 192 kHz; default: the converter's), one for each row of the voice.
        ``engine`` executes the network: ``onnx``: ONNX Runtime, the default on a CPU; ``eager``: the network
        itself, the default on a GPU; or your own ``Engine``.
        """
        check_streams(self.network)
        check_floats(voice, "the voice")
        for row in voice.split(1):
            check_voice(self.network, row, semitones)
        rate = self._rate(sample_rate)
        steps = engine
        if steps is None or isinstance(steps, str):
            from w2w.exported.engine import MOST_HOPS, open_engine

            chunk_hops = chunk_samples * self.sample_rate // (rate * self.network.hop)
            # Steps of one hop serve voices that glide and the rest of a chunk.
            steps = open_engine(self.network, steps, (1, min(max(chunk_hops, 1), MOST_HOPS)))
        return Stream(
            self.network, voice.to(self.device), chunk_samples, semitones, sample_rate=rate, engine=steps
        )

    def _rate(self, rate: int | None) -> int:
        if rate is not None:
            check_rate(rate)
        return self.sample_rate if rate is None else rate
