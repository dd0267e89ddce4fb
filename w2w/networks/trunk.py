"""A pretrained speech encoder as the content encoder's input: its layers mixed, at the converter's frames."""

from dataclasses import asdict, replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from data.audio.sinc import resample
from engine.user_error import UserError
from pretrain.causal.encoder import CausalEncoderConfig, PerItem
from pretrain.speech.encoder import SpeechEncoder, SpeechEncoderConfig
from w2w.networks.config import TrunkConfig
from w2w.networks.whole_content import Hidden, Wave, WholeContent, middles

LENGTH_STEP = 80
"""Lengths of waves played at other speeds are multiples of this: FFTs of a prime length are slow."""


class PretrainedContent(WholeContent):
    """Content encoder on the features of a pretrained speech encoder."""

    def __init__(
        self, config: CausalEncoderConfig, trunk: TrunkConfig, sample_rate: int, look_ahead: int
    ) -> None:
        super().__init__(config, sample_rate, trunk.hidden)
        self.trunk = Trunk(trunk, trunk.layer, sample_rate, self.hop, look_ahead)

    def hidden(self, wave: Wave, warp: PerItem | None = None) -> Hidden:
        return self.trunk(wave, warp)


class Trunk(nn.Module):
    """Features of a speech encoder, of one layer or mixed from all, interpolated to the converter's frames.

    It encodes whole utterances. Frame ``t`` is interpolated at the middle of the samples that are decoded
    from it, which are those of the source ``look_ahead`` samples earlier.
    """

    def __init__(
        self, config: TrunkConfig, layer: int, sample_rate: int, hop: int, look_ahead: int = 0
    ) -> None:
        super().__init__()
        if not 0 <= layer <= config.layers:
            raise UserError(f"trunk_layer={layer} must be 0 (all mixed) or 1 to {config.layers}")
        self.sample_rate, self.hop, self.look_ahead = sample_rate, hop, look_ahead
        # Layers above the chosen one are left out.
        sizes: dict[str, Any] = asdict(config) | {"layers": layer or config.layers}
        theirs = SpeechEncoderConfig(**{name: size for name, size in sizes.items() if name != "layer"})
        dropless = replace(theirs, dropout=0.0, attention_dropout=0.0, feature_dropout=0.0)
        self.encoder = SpeechEncoder(dropless)
        masked: nn.Parameter = self.encoder.trunk.masked_spec_embed  # type: ignore[assignment]
        masked.requires_grad_(False)  # used in pretraining only
        self.mix = nn.Parameter(torch.zeros(config.layers)) if layer == 0 else None

    def forward(self, wave: Wave, warp: PerItem | None = None) -> Hidden:
        """Features of a wave of whole hops, encoded at once; ``warp`` is the playback speed of each item."""
        frames = wave.shape[-1] // self.hop
        resampled = resample(wave, self.sample_rate, self.encoder.sample_rate)
        n_samples, speed = None, wave.new_ones(len(wave))
        if warp is not None:
            resampled, n_samples, speed = played(resampled, warp)
        encoded = self.encoder(resampled, n_samples)
        hidden = self._mixed(encoded.features)
        ratio = self.encoder.sample_rate / self.sample_rate
        place = middles(frames, self.hop, self.look_ahead, ratio, wave.device)[None] / speed[:, None]
        place = (place - (self.encoder.config.receptive_field - 1) / 2) / self.encoder.hop
        return interpolated(hidden, place, encoded.valid.sum(1))

    def _mixed(self, features: list[Float[Tensor, "batch frames hidden"]]) -> Hidden:
        if self.mix is None:
            return F.layer_norm(features[-1], features[-1].shape[-1:]).transpose(1, 2)
        # Layers differ widely in level; normalised, their weights are comparable.
        level = torch.stack([F.layer_norm(layer, layer.shape[-1:]) for layer in features])
        return torch.einsum("l,lbtd->bdt", self.mix.softmax(0).to(level.dtype), level)


def played(
    wave: Wave, warp: PerItem
) -> tuple[Float[Tensor, "batch 1 longest"], Int[Tensor, " batch"], PerItem]:
    """Play each item ``warp`` times as fast, shifting pitch and formants; return waves, lengths and speeds.

    Resampling is by FFT, which passes gradients and keeps high frequencies, but rings a little where the ends
    of a wave differ. Waves are padded with silence to the longest. Speeds are ``warp`` up to rounded lengths.
    """
    samples = wave.shape[-1]
    lengths = (samples / warp.double() / LENGTH_STEP).round().clamp_min(1).long() * LENGTH_STEP
    spectrum, longest, rows = torch.fft.rfft(wave.float()), int(lengths.max()), []
    for row, length in zip(spectrum, lengths.tolist()):
        resampled = torch.fft.irfft(row[:, : length // 2 + 1], n=length) * (length / samples)
        rows.append(F.pad(resampled, (0, longest - length)))
    return torch.stack(rows), lengths, (samples / lengths.double()).to(warp.dtype)


def interpolated(
    hidden: Hidden, place: Float[Tensor, "batch places"], n_valid: Int[Tensor, " batch"]
) -> Float[Tensor, "batch hidden places"]:
    """Interpolate linearly between frames; outside the valid frames, repeat the first or the last one."""
    last = (n_valid - 1).to(place)[:, None]
    place = place.clamp_min(0.0).minimum(last)
    before = place.floor()
    after = (before + 1).minimum(last)
    share = (place - before)[:, None].to(hidden.dtype)

    def at(frames: Tensor) -> Tensor:
        return hidden.gather(2, frames.long()[:, None].expand(-1, hidden.shape[1], -1))

    return torch.lerp(at(before), at(after), share)
