"""One step of a converter as a plain function of tensors, which exporters can write down.

It is the network's ``step`` for a fixed number of hops, by other arithmetic: real numbers, no Python numbers,
no compiled kernels, a flat state. What it puts out equals the network to float32's rounding.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from engine.user_error import UserError
from w2w.exported.hearing import Hearing
from w2w.exported.speaking import Speaking
from w2w.exported.tracking import Tracking
from w2w.networks.network import HIGHEST, LOWEST, ConverterNetwork


class StepGraph(nn.Module):
    """Convert one chunk of ``n_hops`` hops: chunk, voice, semitones and state to samples and the next state.

    ``begun`` holds the state before the first chunk, by name, in the order of the arguments.
    """

    decay: Tensor
    carried: Tensor

    def __init__(self, network: ConverterNetwork, n_hops: int) -> None:
        super().__init__()
        check_exportable(network)
        if n_hops < 1:
            raise UserError(f"n_hops={n_hops} must be at least 1")
        config = network.config
        self.chunk_samples, self.voice_dim = n_hops * config.hop, network.voice_dim
        self.hearing = Hearing(network.content, n_hops)
        self.speaking = Speaking(network.decoder, n_hops)
        self.tracking = Tracking(network.pitch, n_hops) if network.decoder.needs_pitch else None
        self.wave_context = self.hearing.wave_context
        self.begun: dict[str, Tensor] = {}
        if self.tracking is not None:
            self.wave_context = max(self.wave_context, self.tracking.wave_context)
            usual, n = network.usual_pitch, n_hops
            self.register_buffer("decay", usual.decay[:n, :n].T.contiguous())
            self.register_buffer("carried", usual.carried[:n, None].clone())
            first = usual.begin(1)
            held = torch.cat([first.total[0], first.weight[0]], dim=1).double()
            self.begun |= {"usual_pitch": held.detach(), **self.tracking.begun}
        self.begun |= {"wave": torch.zeros(self.wave_context), **self.hearing.begun, **self.speaking.begun}
        self.begun = {name: tensor.detach().clone().contiguous() for name, tensor in self.begun.items()}
        self.eval().requires_grad_(False)

    def forward(
        self,
        chunk: Float[Tensor, "1 1 samples"],
        voice: Float[Tensor, "1 dim"],
        semitones: Float[Tensor, "1"],
        *flat_state: Tensor,
    ) -> tuple[Tensor, ...]:
        """The samples of the chunk, ``look_ahead`` late, and the next state; ``semitones`` is float64."""
        state = dict(zip(self.begun, flat_state))
        heard = torch.cat([state["wave"], chunk.reshape(-1)])
        after = {"wave": heard[self.chunk_samples :]}
        of_mels = heard[self.wave_context - self.hearing.wave_context :]
        code, energy, after_content = self.hearing(of_mels, chunk, state)
        log_f0 = voicing = None
        if self.tracking is not None:
            of_pitch = heard[self.wave_context - self.tracking.wave_context :]
            log_f0, voicing, after_pitch = self.tracking(of_pitch, state)
            log_f0, usual = self._moved(log_f0, voicing, voice, semitones, state["usual_pitch"])
            after |= {**after_pitch, "usual_pitch": usual}
        wave, after_decoder = self.speaking([code, energy], log_f0, voicing, voice, state)
        after |= {**after_content, **after_decoder}
        return wave.reshape(1, 1, -1), *(after[name] for name in self.begun)

    def _moved(
        self,
        log_f0: Float[Tensor, " frames"],
        voicing: Float[Tensor, " frames"],
        voice: Float[Tensor, "1 dim"],
        semitones: Float[Tensor, "1"],
        usual: Float[Tensor, "1 2"],
    ) -> tuple[Float[Tensor, " frames"], Float[Tensor, "1 2"]]:
        """The source's pitch at the voice's height, and the source's usual pitch."""
        voiced = (voicing > 0.5).double()
        sums = torch.mm(self.decay, torch.stack([log_f0 * voiced, voiced], dim=1)) + self.carried * usual
        # In float32, as the network adds it: a last bit more or less of F0 is heard as phase after a while.
        target = (voice[0, -1:] + (semitones * (math.log(2.0) / 12.0)).float()).double()
        return (log_f0 - sums[:, 0] / sums[:, 1] + target).clamp(LOWEST, HIGHEST), sums[-1:]


def check_exportable(network: object) -> None:
    """Refuse what has no step to write down, and say why."""
    if not isinstance(network, ConverterNetwork):
        raise UserError(
            "a converter of mels is exported as weights only: the step of a wave-to-wave converter is what"
            " can be written as a graph"
        )
    if network.needs_whole:
        raise UserError(f"this converter's {network.needs_whole}: there is no step that could be exported")
