"""Streaming conversion: chunks in and out, while voice and pitch may glide to others."""

import math
from fractions import Fraction
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from data.audio.checking import check_floats
from data.audio.live_resampling import ResamplerState, least_delay, live_resampler
from engine.user_error import UserError
from w2w.networks.wave_network import Engine, Voice, Wave, WaveNetwork, check_voice


class VoiceRamp(NamedTuple):
    """Linear transition of voice and pitch between two positions in the source."""

    start: Voice
    end: Voice
    start_semitones: float
    end_semitones: float
    began: float
    """Start of the transition, in samples of the source at the network's rate."""
    lasts: float
    """Duration of the transition in samples; 0: immediate."""

    @classmethod
    def staying(cls, voice: Voice, semitones: float = 0.0) -> "VoiceRamp":
        return cls(voice, voice, semitones, semitones, 0.0, 0.0)

    def at(self, place: float) -> tuple[Voice, float]:
        """Voice and semitones at a position; from the end on, exactly the target's."""
        elapsed = place - self.began
        if elapsed >= self.lasts:
            return self.end, self.end_semitones
        share = max(elapsed, 0.0) / self.lasts
        semitones = self.start_semitones + share * (self.end_semitones - self.start_semitones)
        return torch.lerp(self.start, self.end, share), semitones

    def toward(self, voice: Voice | None, semitones: float | None, place: float, lasts: float) -> "VoiceRamp":
        """A transition from the current values to another voice or pitch; None keeps the current target."""
        start, start_semitones = self.at(place)
        end = self.end if voice is None else voice
        return VoiceRamp(
            start, end, start_semitones, self.end_semitones if semitones is None else semitones, place, lasts
        )

    def moving(self, place: int, hop: int) -> int:
        """Number of hops from a position on that end before the transition does; their voices all differ."""
        return max(math.ceil((self.began + self.lasts - place) / hop) - 1, 0)


Ready = Float[Tensor, "batch 1 ready"]

LOWEST_RATE, HIGHEST_RATE = 8_000, 192_000
"""Limits of the chunks' sampling rate in Hz."""
GLIDE_MS = 100.0
"""Default duration of a change of voice in milliseconds: no click, no noticeable wait."""


class StreamState(NamedTuple):
    """State of a conversion in progress. Its size is bounded; it may be stored, copied and resumed."""

    network: Any
    entering: ResamplerState | None
    """State of the resampler from the source's rate to the network's; None if they are equal."""
    leaving: ResamplerState | None
    waiting: Float[Tensor, "batch 1 rest"]
    """Samples at the network's rate that do not fill a hop yet."""
    ramp: VoiceRamp
    n_in: int
    """Samples received."""
    n_out: int
    """Samples that the network has returned, at its own rate, its lag included."""
    last: Float[Tensor, "batch 1 1"]
    """The last sample received, repeated beyond the end: an offset that ended abruptly would click."""


class Stream:
    """One live conversion: the pieces from ``push`` and ``flush``, joined, equal the conversion of the whole.

    Chunks may have any length. Nothing is crossfaded, and a wave-to-wave network computes nothing twice.
    ``push`` and ``flush`` keep the state here; ``begin``, ``step`` and ``finish`` take and return it, for as
    many sources at once as there are voices.
    """

    def __init__(
        self,
        network: WaveNetwork,
        voice: Voice,
        chunk_samples: int,
        semitones: float = 0.0,
        *,
        sample_rate: int | None = None,
        engine: Engine | None = None,
    ) -> None:
        check_streams(network)
        rate = network.sample_rate
        self.sample_rate = rate if sample_rate is None else sample_rate
        """Sampling rate of input and output chunks in Hz."""
        if not isinstance(chunk_samples, int) or chunk_samples < 1:
            raise UserError(f"chunk_samples={chunk_samples} must be a whole number, at least 1")
        if self.sample_rate != rate and not LOWEST_RATE <= self.sample_rate <= HIGHEST_RATE:
            raise UserError(
                f"sample_rate={sample_rate} must be within {LOWEST_RATE} and {HIGHEST_RATE} Hz, or the"
                f" converter's own, {rate} Hz"
            )
        self.network = network
        self.engine: Any = network if engine is None else engine  # a network that streams is an engine
        self.voice, self.semitones = plain(voice), semitones
        self.chunk_samples, self.hop = chunk_samples, network.hop
        common = math.gcd(self.sample_rate, rate)
        self.down, self.up = self.sample_rate // common, rate // common
        self.lag, self.entering, self.leaving = network.look_ahead, None, None
        """Lag of the result in samples at the chunks' rate, without the wait for whole hops."""
        if self.sample_rate != rate:
            # The first resampler is delayed by the fraction that makes the whole lag an integer.
            least = least_delay(self.sample_rate)
            rest = (network.look_ahead + least_delay(rate)) * Fraction(self.down, self.up)
            self.lag = math.ceil(least + rest)
            self.entering = live_resampler(self.sample_rate, rate, self.lag - rest)
            self.leaving = live_resampler(rate, self.sample_rate)
        self.state = self.begin()
        self.ended = False

    @property
    def latency_samples(self) -> int:
        """Latency in samples at the chunks' rate."""
        hop = self.hop * self.down
        waiting = -(-(hop - math.gcd(self.chunk_samples * self.up, hop)) // self.up)
        return self.chunk_samples + waiting + self.lag

    @property
    def latency_ms(self) -> float:
        """Maximum delay of a converted sample after its source in milliseconds, computing time excluded.

        It is the sum of the chunk, the look-ahead, that of the resamplers included, and the wait for a whole
        hop where chunks are not multiples of it.
        """
        return 1000.0 * self.latency_samples / self.sample_rate

    def push(self, chunk: Wave) -> Ready:
        """Take the next samples of the source; return the samples that are ready, possibly none."""
        self._check_open()
        ready, self.state = self.step(chunk, self.state)
        return ready

    def flush(self) -> Ready:
        """End the source; return the rest of the result."""
        self._check_open()
        self.ended = True
        return self.finish(self.state)

    def change(
        self, voice: Voice | None = None, semitones: float | None = None, over_ms: float = GLIDE_MS
    ) -> None:
        """Glide linearly to another voice or pitch, from the next sample on."""
        self._check_open()
        self.state = self.changed(self.state, voice, semitones, over_ms)

    def begin(self) -> StreamState:
        """State before the first chunk: one conversion for each row of the voice."""
        batch, device = len(self.voice), self.voice.device
        return StreamState(
            network=self.engine.begin(batch),
            entering=self.entering.begin(batch, device) if self.entering else None,
            leaving=self.leaving.begin(batch, device) if self.leaving else None,
            waiting=self.voice.new_zeros(batch, 1, 0),
            ramp=VoiceRamp.staying(self.voice, self.semitones),
            n_in=0,
            n_out=0,
            last=self.voice.new_zeros(batch, 1, 1),
        )

    def step(self, chunk: Wave, state: StreamState) -> tuple[Ready, StreamState]:
        """Convert one chunk; the given state is not modified.

        A chunk that requires gradients receives them; the network itself then runs, not its exported graphs.
        """
        check_floats(chunk, "a chunk")
        if chunk.shape[:2] != state.waiting.shape[:2]:
            raise UserError(
                f"a chunk has shape {tuple(chunk.shape)}; this stream takes ({len(self.voice)}, 1, samples)"
            )
        if not bool(torch.isfinite(chunk).all()):
            # Checked before use: one NaN would remain in the state of every layer.
            raise UserError("a chunk holds NaN or infinite samples; it was skipped, the stream can continue")
        with torch.inference_mode(not (torch.is_grad_enabled() and chunk.requires_grad)):
            return self._advance(chunk.to(state.waiting), state)

    def finish(self, state: StreamState) -> Ready:
        """The rest of the result if the source ends here; the given state is not modified."""
        rest = state.n_in - max(self._out(state.n_out) - self.lag, 0)
        # Enough whole hops to output the last sample.
        hop = self.hop * self.down
        last = -(-(state.n_in + self.lag) * self.up // hop)
        padding = state.last.expand(-1, -1, -(-last * hop // self.up) - state.n_in)
        return self.step(padding, state)[0][..., :rest]

    def changed(
        self,
        state: StreamState,
        voice: Voice | None = None,
        semitones: float | None = None,
        over_ms: float = GLIDE_MS,
    ) -> StreamState:
        """A state whose voice, pitch or both glide to others; see ``change``."""
        if not (math.isfinite(over_ms) and over_ms >= 0):
            raise UserError(f"over_ms={over_ms} must be 0 or more milliseconds")
        if voice is not None and voice.shape != state.ramp.end.shape:
            raise UserError(
                f"the new voice has shape {tuple(voice.shape)}, the stream's is "
                f"{tuple(state.ramp.end.shape)}: embed it with the same converter"
            )
        for row in (state.ramp.end if voice is None else voice).split(1):
            check_voice(self.network, row, semitones or 0.0)
        place = state.n_in * self.up / self.down
        lasts = over_ms / 1000.0 * self.network.sample_rate
        voice = None if voice is None else plain(voice.to(state.ramp.end))
        return state._replace(ramp=state.ramp.toward(voice, semitones, place, float(lasts)))

    def _advance(self, chunk: Wave, state: StreamState) -> tuple[Ready, StreamState]:
        n_in, entering, leaving = state.n_in + chunk.shape[-1], state.entering, state.leaving
        end = chunk[..., -1:].clone() if chunk.shape[-1] else state.last
        if self.entering:
            assert entering is not None
            chunk, entering = self.entering.step(chunk, entering)
        waiting = torch.cat([state.waiting, chunk], dim=-1)
        whole = waiting.shape[-1] // self.hop * self.hop
        # The rest is copied: a view would keep the whole chunk in memory.
        after = state._replace(entering=entering, waiting=waiting[..., whole:].clone(), n_in=n_in, last=end)
        wave, network = self._convert(waiting[..., :whole], state)
        before, n_out = self._out(state.n_out), state.n_out + whole
        if self.leaving:
            assert leaving is not None
            wave, leaving = self.leaving.step(wave, leaving)
        # The first samples are the lag, from before the source's beginning, and are dropped.
        ready = wave[..., max(self.lag - before, 0) :]
        return ready.cpu(), after._replace(network=network, leaving=leaving, n_out=n_out)

    def _convert(self, wave: Wave, state: StreamState) -> tuple[Wave, Any]:
        """Convert whole hops at the network's rate: one by one while the voice glides, the others at once."""
        network, place, parts = state.network, state.n_out, []
        moving = state.ramp.moving(place, self.hop) * self.hop
        for piece in [*wave[..., :moving].split(self.hop, dim=-1), wave[..., moving:]]:
            if not piece.shape[-1]:
                continue
            voice, semitones = state.ramp.at(float(place + self.hop))
            part, network = self.engine.step(piece, voice, network, semitones)
            parts.append(part)
            place += piece.shape[-1]
        return torch.cat(parts, dim=-1) if parts else wave, network

    def _out(self, n_out: int) -> int:
        """Number of samples at the chunks' rate for a number of samples at the network's."""
        return n_out * self.down // self.up

    def _check_open(self) -> None:
        if self.ended:
            raise ValueError("this stream was flushed; begin another")


def plain(voice: Voice) -> Voice:
    """Copy a voice that may be an inference tensor to one that autograd can use."""
    with torch.inference_mode(False):
        return voice.detach().clone()


def check_streams(network: WaveNetwork) -> None:
    if not network.streams:
        raise UserError(
            f"this converter's {network.needs_whole}: convert whole files with it, or take released_live"
        )
