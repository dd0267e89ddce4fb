"""A WaveNet one sample at a time, by the compiled loop: what ``cached`` does, many times sooner."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vocoders.cpu import wavenet as kernel
from vocoders.cpu.wavenet_packing import pack
from vocoders.wavenet.cached import Conditioning, Encoded, Prediction
from vocoders.wavenet.distributions import MuLaw, silence
from vocoders.wavenet.network import WaveNet


class CachedCompiled:
    """The compiled loop as a backend."""

    def __init__(self, network: WaveNet, batch: int, prediction: Prediction | None = None) -> None:
        self.output = network.config.output

        def weight(name: str) -> np.ndarray:
            module, leaf = name.rsplit(".", 1)
            return getattr(network.get_submodule(module), leaf).detach().numpy()

        classes = isinstance(self.output, MuLaw)
        self.packed = pack(weight, dilations=list(network.config.dilations), classes=classes)
        order = prediction.coefficients.shape[1] if prediction else 0
        self.state = kernel.begin(self.packed, batch, float(silence(self.output)), order)
        self.filters = None
        if prediction is not None:
            coefficients = prediction.coefficients.transpose(1, 2).contiguous().numpy()
            gain = None if prediction.gain is None else prediction.gain[:, 0].contiguous().numpy()
            self.filters = kernel.Prediction(coefficients=coefficients, hop=prediction.hop, gain=gain)

    def run(
        self,
        conditioning: Conditioning,
        noise: Float[Tensor, "batch samples 2"],
        temperature: Float[Tensor, "batch _"],
        top_p: float,
    ) -> Encoded:
        """Draw as many samples as there is noise for, continuing."""
        lowest = -float("inf") if isinstance(self.output, MuLaw) else self.output.log_scale_min
        heat = temperature.numpy()
        choice = kernel.Choice(temperature=heat, sharpness=heat, top_p=top_p, lowest_log_scale=lowest)
        samples, self.state = kernel.generate(
            self.packed, conditioning.numpy(), noise.numpy(), self.state, choice, prediction=self.filters
        )
        made = torch.from_numpy(samples)
        return made.long() if isinstance(self.output, MuLaw) else made

    def replay(self, conditioning: Conditioning, inputs: Encoded) -> Float[Tensor, "batch n_out samples"]:
        """The parameters that the network puts out when its inputs are given, continuing."""
        given = inputs.float().numpy()
        made, self.state = kernel.logits(self.packed, conditioning.numpy(), given, self.state)
        return torch.from_numpy(made).transpose(1, 2)
