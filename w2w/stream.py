"""A conversion in progress: samples come and go, while voice and pitch may glide to others."""

import math
from fractions import Fraction
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from data.audio.checking import check_floats, check_number
from data.audio.live_resampling import ResamplerState, least_delay, live_resampler
from engine.user_error import UserError
from w2w.networks.wave_network import MOST_SEMITONES, Engine, WaveNetwork

Voice = Float[Tensor, "batch dim"]


class VoiceRamp(NamedTuple):
    """A voice and a pitch that move in a straight line from one place in the source to another."""

    start: Voice
    end: Voice
    start_semitones: float
    end_semitones: float
    began: float
    """Samples of the source, at the network's rate, that the first voice spoke."""
    lasts: float
    """Samples over which the voice moves; 0 for at once."""

    @classmethod
    def staying(cls, voice: Voice, semitones: float = 0.0) -> "VoiceRamp":
        return cls(voice, voice, semitones, semitones, 0.0, 0.0)

    def at(self, place: float) -> tuple[Voice, float]:
        """Voice and semitones at a place; from the end on exactly those that were asked for."""
        elapsed = place - self.began
        if elapsed >= self.lasts:
            return self.end, self.end_semitones
        share = max(elapsed, 0.0) / self.lasts
        moved = self.start_semitones + share * (self.end_semitones - self.start_semitones)
        return torch.lerp(self.start, self.end, share), moved

    def toward(self, voice: Voice | None, semitones: float | None, place: float, lasts: float) -> "VoiceRamp":
        """Turn, wherever it is now, to another voice or pitch; what is None goes where it was going."""
        start, start_semitones = self.at(place)
        end = self.end if voice is None else voice
        return VoiceRamp(
            start, end, start_semitones, self.end_semitones if semitones is None else semitones, place, lasts
        )

    def moving(self, place: int, hop: int) -> int:
        """How many hops from a place on end before the voice has arrived: each has a voice of its own."""
        return max(math.ceil((self.began + self.lasts - place) / hop) - 1, 0)


Wave = Float[Tensor, "batch 1 samples"]
Ready = Float[Tensor, "batch 1 ready"]

LOWEST_RATE, HIGHEST_RATE = 8_000, 192_000
"""Hz, of chunks."""
GLIDE_MS = 100.0
"""Milliseconds in which a voice changes, where nothing else is asked: neither a click nor a wait."""


class StreamState(NamedTuple):
    """All that a conversion in progress remembers. It does not grow, and may be kept, copied and resumed."""

    network: Any
    entering: ResamplerState | None
    """Where the source's rate becomes the network's; None where they are the same."""
    leaving: ResamplerState | None
    waiting: Float[Tensor, "batch 1 rest"]
    """Samples at the network's rate that do not fill a hop yet."""
    ramp: VoiceRamp
    n_in: int
    """Samples taken in."""
    n_out: int
    """Samples the network has put out, at its own rate, its lag included."""
    last: Float[Tensor, "batch 1 1"]
    """The last sample taken in, which is held beyond the end: an offset that ended would be a click."""


class Stream:
    """One live conversion. All pushed pieces and the flushed tail, put together, equal the whole conversion.

    Chunks may have any length. Nothing is crossfaded, and a wave-to-wave network computes nothing twice.
    ``push`` and ``flush`` keep the state here; ``begin``, ``step`` and ``finish`` are the same with the state
    in the open, for as many sources at once as there are voices.
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
        rate = network.sample_rate
        self.sample_rate = rate if sample_rate is None else sample_rate
        """Hz, of chunks in and out."""
        if not isinstance(chunk_samples, int) or chunk_samples < 1:
            raise UserError(f"chunk_samples={chunk_samples} must be a whole number, at least 1")
        if self.sample_rate != rate and not LOWEST_RATE <= self.sample_rate <= HIGHEST_RATE:
            raise UserError(
                f"sample_rate={sample_rate} must be within {LOWEST_RATE} and {HIGHEST_RATE} Hz, or the"
                f" converter's own, {rate} Hz"
            )
        self.network, self.engine = network, network if engine is None else engine
        self.voice, self.semitones = plain(voice), semitones
        self.chunk_samples, self.hop = chunk_samples, network.hop
        common = math.gcd(self.sample_rate, rate)
        self.down, self.up = self.sample_rate // common, rate // common
        self.lag, self.entering, self.leaving = network.look_ahead, None, None
        """Samples, at the chunks' rate, by which the result is late, apart from its hop's rest."""
        if self.sample_rate != rate:
            # The filter before the network waits a little longer, so that source and result meet on a sample.
            least = least_delay(self.sample_rate)
            rest = (network.look_ahead + least_delay(rate)) * Fraction(self.down, self.up)
            self.lag = math.ceil(least + rest)
            self.entering = live_resampler(self.sample_rate, rate, self.lag - rest)
            self.leaving = live_resampler(rate, self.sample_rate)
        self.state = self.begin()
        self.ended = False

    @property
    def latency_samples(self) -> int:
        """The latency in samples of the chunks' rate."""
        hop = self.hop * self.down
        waiting = -(-(hop - math.gcd(self.chunk_samples * self.up, hop)) // self.up)
        return self.chunk_samples + waiting + self.lag

    @property
    def latency_ms(self) -> float:
        """Milliseconds from a sample's arrival to its conversion's, at most, computing time left out.

        Its chunk must fill and the look-ahead pass, that of the filters between two rates included; chunks
        that are no multiple of the hop leave a rest.
        """
        return 1000.0 * self.latency_samples / self.sample_rate

    def push(self, chunk: Wave) -> Ready:
        """Take the next samples of the source; return what of the result is ready, perhaps nothing."""
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
        """Move to another voice or pitch from the next sample on, in a straight line over some time."""
        self._check_open()
        self.state = self.changed(self.state, voice, semitones, over_ms)

    def begin(self) -> StreamState:
        """Nothing taken in: one conversion for each row of the voice."""
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
        """Convert one chunk; the state it was given stays as it was.

        Gradients reach a chunk that asks for them, by the plain way through the network.
        """
        check_floats(chunk, "a chunk")
        if chunk.shape[:2] != state.waiting.shape[:2]:
            raise UserError(
                f"a chunk has shape {tuple(chunk.shape)}; this stream takes ({len(self.voice)}, 1, samples)"
            )
        if not bool(torch.isfinite(chunk).all()):
            # Refused before it is taken in: one NaN would stay in the memory of every layer.
            raise UserError("a chunk holds NaN or infinite samples; it was left out, the stream may go on")
        with torch.inference_mode(not (torch.is_grad_enabled() and chunk.requires_grad)):
            return self._advance(chunk.to(state.waiting), state)

    def finish(self, state: StreamState) -> Ready:
        """What is left of the result where the source ends here; the state stays as it was."""
        rest = state.n_in - max(self._out(state.n_out) - self.lag, 0)
        # As many hops as it takes to bring the last sample out.
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
        """The state from which the voice, the pitch or both move to others; see ``change``."""
        if not (math.isfinite(over_ms) and over_ms >= 0):
            raise UserError(f"over_ms={over_ms} must be 0 or more milliseconds")
        if voice is not None and voice.shape != state.ramp.end.shape:
            raise UserError(
                f"the new voice has shape {tuple(voice.shape)}, the stream's is "
                f"{tuple(state.ramp.end.shape)}: embed it with the same converter"
            )
        if voice is not None and not bool(torch.isfinite(voice).all()):
            raise UserError("the new voice holds NaN or infinite numbers: take it from a recording again")
        check_number(semitones or 0.0, "semitones", MOST_SEMITONES)
        if semitones and not self.network.moves_pitch:
            raise UserError("this converter cannot move the pitch: leave the semitones out")
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
        # The rest is copied: as a part of the whole it would keep the whole in memory.
        after = state._replace(entering=entering, waiting=waiting[..., whole:].clone(), n_in=n_in, last=end)
        wave, network = self._convert(waiting[..., :whole], state)
        before, n_out = self._out(state.n_out), state.n_out + whole
        if self.leaving:
            assert leaving is not None
            wave, leaving = self.leaving.step(wave, leaving)
        # The first samples out are the lag: what was said before the source began.
        ready = wave[..., max(self.lag - before, 0) :]
        return ready.cpu(), after._replace(network=network, leaving=leaving, n_out=n_out)

    def _convert(self, wave: Wave, state: StreamState) -> tuple[Wave, Any]:
        """Whole hops, at the network's rate: one by one while the voice moves, the others at once."""
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
        """Samples at the chunks' rate that the network's samples have become."""
        return n_out * self.down // self.up

    def _check_open(self) -> None:
        if self.ended:
            raise ValueError("this stream was flushed; begin another")


def plain(voice: Voice) -> Voice:
    """A copy that gradients may pass, whatever mode the voice was taken in."""
    with torch.inference_mode(False):
        return voice.detach().clone()
