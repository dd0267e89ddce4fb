"""The public face of the converter: load it, take a voice from speech, speak with it."""

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
from w2w.stream import Engine, Stream
from w2w.weights import is_mel_converter, load_converter, weights_folder

if TYPE_CHECKING:
    from w2w.words.tied import Tie

Wave = Float[Tensor, "1 1 samples"]
Clip = Float[Tensor, "1 1 _"]
"""A wave among others of other lengths."""
Voice = Float[Tensor, "1 dim"]

OWN_VOICE = "voice.safetensors"
"""Beside weights that were fine-tuned: the voice."""
BLOCK_S = 4.0
"""Seconds converted at once: enough to keep a CPU busy, little enough to bound memory."""


class Converter:
    """Any source, any voice: wave in, wave out.

    Waves are mono, at ``sample_rate``, nominally in [-1, 1]. Nothing here keeps state between calls.
    """

    def __init__(
        self, network: WaveNetwork, *, words: Path | None = None, folder: Path | None = None
    ) -> None:
        self.network: Any = network.eval().requires_grad_(False)
        self.config = network.config
        self.words = words
        """Folder of the tie to words (`python -m w2w.tie`), read when it is first needed."""
        self.folder = folder
        """Where the weights are from."""

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

        ``released_live`` is the one for live speech, of less latency; voices of the two differ.

        ``words`` is the folder that ties voices to words, where it is not the one beside the weights.
        ``vocoder`` speaks for a converter of mels instead of its own one: ``released``, ``griffin_lim``, or a
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
        beside = folder / "words"
        tied = Path(words) if words else beside if beside.is_dir() else None
        return cls(network.to(device), words=tied, folder=folder)

    def push_to_hub(self, name: str, **options: Any) -> str:
        """Put the folder that the converter is from, with its card, on the hub; see ``w2w.publish``."""
        from w2w.publish import Published

        if self.folder is None:
            raise UserError("this converter is from no folder: export it first, and load it from there")
        return Published(self.folder).push_to_hub(name, **options)

    @property
    def sample_rate(self) -> int:
        """Hz, of every wave in and out."""
        return self.network.sample_rate

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    @torch.inference_mode()
    def embed(self, clips: Clip | Sequence[Clip], *, names: Sequence[str] = ()) -> Voice:
        """Take a voice from one clip, or the average over several; its last entry is the mean log-F0.

        ``names`` is what complaints call the clips.
        """
        given: list[Any] = list(clips) if isinstance(clips, list | tuple) else [clips]
        if not given:
            raise UserError("no reference clip was given; a voice needs at least one")
        voices = []
        for number, clip in enumerate(given):
            name = names[number] if names else f"reference clip {number + 1}"
            check_wave(clip, name)
            check_audible(clip, self.sample_rate, name)
            heard = [
                share * self.network.style(without_hum(part, self.sample_rate).to(self.device))
                for part, share in parts(clip, self.sample_rate)
            ]
            voices.append(torch.stack(heard).sum(0))
        return torch.stack(voices).mean(0)

    def fit(self, voice: Voice, clips: Sequence[Clip], *, steps: int | None = None) -> Voice:
        """Fit a voice to clips of its speaker, so that they are rebuilt best; some ten seconds on one core.

        ``steps`` are of gradient descent on the voice's timbre (None: 100, 0: none). A voice that was fitted
        before comes from the user's cache. A converter of mels gives the voice back as it is.
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
        """The voice of the gallery, or of the user's own, that has this name (`timbre voices` lists them).

        ``own`` is the voice that this converter was fine-tuned to. ``fit_steps`` are those of ``fit``.
        """
        from w2w.gallery.named import embed

        if name == "own" and self.folder is not None and (self.folder / OWN_VOICE).is_file():
            return load_weights(self.folder / OWN_VOICE)["voice"]
        return embed(self, name, fit_steps)

    def embed_text(self, text: str, *, variety: float = 0.0, seed: int | None = None) -> Voice:
        """Make a voice from words, such as "an old man, low and rough".

        ``variety`` 0 gives the likeliest voice, always the same; 1 one of the many that fit, and 2, the most,
        one from further off. ``seed`` repeats it.
        """
        return self.tie.from_text(text, variety=variety, seed=seed)

    def embed_image(
        self, picture: str | Path | Tensor, *, variety: float = 0.0, seed: int | None = None
    ) -> Voice:
        """Make a voice that suits a picture: a file, or a uint8 tensor (3, height, width)."""
        return self.tie.from_image(picture, variety=variety, seed=seed)

    def describe(self, voice: Voice, *, count: int = 5) -> list[tuple[str, float]]:
        """The words that suit a voice best, with their likeness (a cosine)."""
        check_voice(self.network, voice)
        return self.tie.describe(voice, count=count)

    @cached_property
    def tie(self) -> "Tie":
        """What connects voices with words and pictures."""
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
        """Mix voices in proportion to their weights, timbre and log-F0 alike."""
        if len(voices) != len(weights) or not voices:
            raise UserError("a blend needs as many weights as voices, and at least one")
        total = sum(weights)
        if not math.isfinite(total) or min(weights) < 0 or total <= 0:
            raise UserError("weights of a blend must be finite, 0 or more, and not all 0")
        return torch.stack([voice * (weight / total) for voice, weight in zip(voices, weights)]).sum(0)

    @torch.inference_mode()
    def source_log_f0(self, source: Clip) -> float | None:
        """Mean log F0 of a source at the converter's rate, for ``convert``; None where it says nothing."""
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
        """Speak the source with a voice; the result is as long as the source, to the sample.

        ``sample_rate`` is the source's and the result's, where it is not the converter's. With the source's
        mean log F0 (``source_log_f0``) F0 is right from the start; without, the result is that of a stream,
        which learns it on the way. Memory beyond source and result does not grow with their length.
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

        A converter that cannot stream (``network.needs_whole`` says why) waits for the last chunk.
        """
        if not self.network.streams:
            source, rate = torch.cat(list(chunks), dim=-1), self._rate(sample_rate)
            yield from convert_whole(self.network, source, voice, semitones, rate, source_log_f0)
            return
        # Long steps are no slower in torch, which needs nothing made beforehand.
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
        """Convert live, chunk by chunk; equal to ``convert`` of the whole.

        Chunks come and go at ``sample_rate`` (8 to 192 kHz; the converter's own where it is left out), one
        for each row of the voice. ``engine`` is what computes: ``onnx``, ONNX Runtime, the default on a
        CPU; ``eager``, the network itself, as on a GPU; or an object of yours.
        """
        if not self.network.streams:
            raise UserError(
                f"this converter's {self.network.needs_whole}: convert whole files with it, or take"
                " released_live"
            )
        check_floats(voice, "the voice")
        for row in voice.split(1):
            check_voice(self.network, row, semitones)
        rate = self._rate(sample_rate)
        steps = engine
        if steps is None or isinstance(steps, str):
            from w2w.exported.engine import MOST_HOPS, open_engine

            chunk_hops = chunk_samples * self.sample_rate // (rate * self.network.hop)
            # A voice that changes is spoken hop by hop, and so is the rest of a chunk.
            steps = open_engine(self.network, steps, (1, min(max(chunk_hops, 1), MOST_HOPS)))
        return Stream(
            self.network, voice.to(self.device), chunk_samples, semitones, sample_rate=rate, engine=steps
        )

    def _rate(self, rate: int | None) -> int:
        if rate is not None:
            check_rate(rate)
        return self.sample_rate if rate is None else rate
