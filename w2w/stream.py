"""A conversion in progress: samples go in as they come, converted samples come out."""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from engine.user_error import UserError
from w2w.networks.wave_network import WaveNetwork

Wave = Float[Tensor, "1 1 samples"]
Ready = Float[Tensor, "1 1 ready"]


class Stream:
    """One live conversion. All pushed pieces and the flushed tail, put together, equal the whole conversion.

    Chunks may have any length. Nothing is crossfaded, and a wave-to-wave network computes nothing twice.
    """

    def __init__(
        self,
        network: WaveNetwork,
        voice: Float[Tensor, "1 dim"],
        chunk_samples: int,
        semitones: float = 0.0,
    ) -> None:
        if chunk_samples < 1:
            raise UserError(f"chunk_samples={chunk_samples} must be at least 1")
        self.network, self.voice, self.semitones = network, voice, semitones
        self.chunk_samples = chunk_samples
        self.hop = network.hop
        self.state: Any = network.begin(1)
        self.waiting = voice.new_zeros(1, 1, 0)
        self.heard = self.made = 0
        """Samples taken in, and samples the network has put out (its lag included)."""
        self.ended = False

    @property
    def latency_ms(self) -> float:
        """Milliseconds from a sample's arrival to its conversion's, at most, computing time left out.

        Its chunk must fill and the look-ahead pass; chunks that are no multiple of the hop leave a rest.
        """
        waiting = self.hop - math.gcd(self.chunk_samples, self.hop)
        longest = self.chunk_samples + waiting + self.network.look_ahead
        return 1000.0 * longest / self.network.sample_rate

    @torch.inference_mode()
    def push(self, chunk: Wave) -> Ready:
        """Take the next samples of the source; return what of the result is ready, perhaps nothing."""
        if self.ended:
            raise ValueError("this stream was flushed; begin another")
        if not bool(torch.isfinite(chunk).all()):
            # Refused before it is taken in: one NaN would stay in the memory of every layer.
            raise UserError("a chunk holds NaN or infinite samples; it was left out, the stream may go on")
        self.heard += chunk.shape[-1]
        return self._advance(chunk)

    @torch.inference_mode()
    def flush(self) -> Ready:
        """End the source; return the rest of the result."""
        look_ahead = self.network.look_ahead
        self.ended = True
        rest = self.heard - max(self.made - look_ahead, 0)
        silence = self.waiting.new_zeros(1, 1, look_ahead + -(self.heard + look_ahead) % self.hop)
        return self._advance(silence)[..., :rest]

    def _advance(self, samples: Wave) -> Ready:
        waiting = torch.cat([self.waiting, samples.to(self.waiting)], dim=-1)
        whole = waiting.shape[-1] // self.hop * self.hop
        ready, self.waiting = waiting[..., :whole], waiting[..., whole:]
        if not whole:
            return ready.cpu()
        wave, self.state = self.network.step(ready, self.voice, self.state, self.semitones)
        # The first samples out are the lag: what was said before the source began.
        lag = max(self.network.look_ahead - self.made, 0)
        self.made += wave.shape[-1]
        return wave[..., lag:].cpu()
