"""Several mels of different lengths at once, each wave what it would be alone."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from vocoders.griffin_lim import GriffinLim
from vocoders.streamed import Window, de_emphasised
from vocoders.vocoder import Vocoder
from vocoders.wavenet.mel_wavenet import MelWaveNet
from vocoders.wavenet.network import WaveNet

Mel = Float[Tensor, "1 n_mels _"]
Wave = Float[Tensor, "1 1 _"]


def together(vocoder: Vocoder, mels: Sequence[Mel], *, seed: int = 0, **options: Any) -> list[Wave]:
    """A wave for each mel, all drawn by one seed; mels are checked ones of the vocoder's definition.

    Shorter mels are lengthened by their last frame. Where a network would hear that, up to its halo before
    a mel's end, the wave is made once more from the mel alone. Rows of a WaveNet, which knows where each
    ends, are drawn by the seed and their number, so all but the first differ from what they would be alone.
    """
    lengths = [mel.shape[-1] for mel in mels]
    if isinstance(vocoder.network, GriffinLim | MelWaveNet) or len(lengths) == 1:
        return [vocoder(mel, seed=[seed], **options) for mel in mels]
    longest = max(lengths)
    batch = torch.cat([F.pad(mel, (0, longest - mel.shape[-1]), mode="replicate") for mel in mels])
    if isinstance(vocoder.network, WaveNet):
        samples = torch.tensor(lengths) * vocoder.hop
        batch = batch.to(vocoder.device)
        options = vocoder.wavenet_options(batch, options, [seed])
        made = vocoder.network.generate(batch, lengths=samples, **options)
        made = torch.cat(
            list(de_emphasised([made], vocoder.config.pre_emphasis, vocoder.config.gain)), dim=-1
        )
        return [wave[..., : length * vocoder.hop] for wave, length in zip(made.split(1), lengths)]
    waves = vocoder(batch, seed=[seed] * len(mels), **options)
    made = []
    for mel, length, wave in zip(mels, lengths, waves.split(1)):
        own = wave[..., : length * vocoder.hop].clone()
        halo = vocoder.network.halo
        kept = max(length - halo, 0)
        if length < longest and halo:
            before = max(kept - halo, 0)
            window = Window(mel[..., before:].to(vocoder.device), kept - before, length - kept, kept)
            own[..., kept * vocoder.hop :] = vocoder.make(window, [seed], options)
        made.append(own)
    return made
