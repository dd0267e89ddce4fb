"""The CLUIT mel network: converts log-mels to a voice, for whole utterances or in streaming chunks."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from engine.user_error import UserError
from vocoders.weight_norm import fold_weight_norm
from w2w.baselines.cluit_mel.blocks import initialised
from w2w.baselines.cluit_mel.config import CluitMelConfig
from w2w.baselines.cluit_mel.generator import Generator, Trunk, whole_blocks

Mel = Float[Tensor, "batch n_mels frames"]


class StyleEncoder(nn.Module):
    """Log-mels of any length to a voice embedding: the trunk's mean over time, then a linear layer."""

    def __init__(self, config: CluitMelConfig) -> None:
        super().__init__()
        self.config = config
        self.trunk = Trunk(config)
        self.head = initialised(nn.Linear(self.trunk.width, config.style_dim), self.trunk.width)

    def forward(self, mel: Mel) -> Float[Tensor, "batch style"]:
        """Encode natural log-mels; those shorter than ``crop_frames`` are extended by reflection."""
        return self.head(self.trunk(mirrored(mel, self.config.crop_frames)).pooled)


def mirrored(mel: Mel, frames: int) -> Float[Tensor, "batch n_mels longer"]:
    """Extend a short mel to ``frames`` frames by repeated reflection."""
    have = mel.shape[-1]
    if not have:
        raise UserError("the reference has no frames: give a recording of speech")
    if have >= frames:
        return mel
    position = torch.arange(frames, device=mel.device) % (2 * have)
    return mel[..., torch.where(position < have, position, 2 * have - 1 - position)]


Voice = Float[Tensor, "batch style"]


class CluitMelNetwork(nn.Module):
    """The converter and the style encoder, on natural log-mels of ``data.frontends.LogMel``."""

    def __init__(self, config: CluitMelConfig) -> None:
        super().__init__()
        self.config = config
        self.generator = Generator(config)
        self.style_encoder = StyleEncoder(config)
        self.mel, self.voice_dim = config.mel, config.style_dim
        self.frames_per_step = config.frames_per_step
        """Frames per block; a step takes whole blocks, and each block's frames depend on each other."""
        self.needs_whole = ""
        """Why the whole utterance is needed; empty if mels can be converted in chunks."""
        if config.norm == "instance":
            self.needs_whole = "network.norm is 'instance', which needs the whole utterance"
        elif not config.causal:
            self.needs_whole = "network.causal is false: its convolutions need look-ahead"
        self.streams = not self.needs_whole

    def style_of_mel(self, mel: Mel) -> Voice:
        return self.style_encoder(mel)

    def forward(self, mel: Mel, voice: Voice) -> Mel:
        """Convert whole mels; the result has as many frames. The last block is padded with its last frame."""
        frames = mel.shape[-1]
        if not frames:
            raise UserError("the source has no frames: give a recording of speech")
        standard = self.config.standardised(whole_blocks(mel, self.frames_per_step))
        if self._uses_own_statistics and not mel.requires_grad:  # not for converted mels, in the cycle loss
            self.generator.keep(standard)
        return self.config.restored(self.generator(standard, voice))[..., :frames]

    def begin(self, batch: int) -> dict[str, Any]:
        """The state before the first chunk: silence, and no voice."""
        return {"generator": self.generator.begin(batch), "voice": None, "modulations": None}

    def step(self, mel: Mel, voice: Voice, state: dict[str, Any]) -> tuple[Mel, dict[str, Any]]:
        """Convert one chunk of whole blocks of ``frames_per_step``; chunks in order equal one ``forward``.

        The modulations are computed only when the voice changes.
        """
        assert self.streams, self.needs_whole
        assert not mel.shape[-1] % self.frames_per_step, "a step takes whole blocks"
        assert not self._uses_own_statistics, "frozen statistics are used in evaluation: call eval() before"
        if not mel.shape[-1]:
            return mel, state
        last, modulations = state["voice"], state["modulations"]
        if last is None or torch.is_grad_enabled() or not torch.equal(last, voice):
            last, modulations = voice.clone(), self.generator.modulations(voice)
        out, after = self.generator.run(self.config.standardised(mel), modulations, state["generator"])
        return self.config.restored(out), {"generator": after, "voice": last, "modulations": modulations}

    @torch.no_grad()
    def freeze_statistics(self, mel: Mel) -> None:
        """Normalise by the statistics of a recorded clip from now on.

        The first ``MEDLEY_CROPS`` crops of the clip, extended by reflection if it is shorter, are stored and
        converted once to every new voice, as statistics after an AdaIN depend on the voice. Further training
        overwrites them.
        """
        if self.config.norm != "frozen":
            raise UserError(f"network.norm is {self.config.norm!r}, and only 'frozen' has statistics to set")
        if mel.shape[-1] < self.config.crop_frames:
            raise UserError(
                f"a clip of {mel.shape[-1]} frames is too short for statistics: give at least "
                f"{self.config.crop_frames / self.mel.frame_rate:.1f} seconds of speech"
            )
        frames = self.generator.clip.shape[-1]
        self.generator.clip.copy_(self.config.standardised(mirrored(mel[:1], frames))[0, :, :frames])

    def fold(self) -> "CluitMelNetwork":
        """Fold parametrised weights into plain ones, for inference; returns itself."""
        return fold_weight_norm(self)

    @property
    def _uses_own_statistics(self) -> bool:
        return self.config.norm == "frozen" and self.training
