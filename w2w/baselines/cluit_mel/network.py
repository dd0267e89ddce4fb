"""CLUIT on mels as a whole: log-mels and a voice to log-mels, for whole utterances or live."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from data.frontends import MelConfig
from engine.user_error import UserError
from vocoders.weight_norm import fold_weight_norm
from w2w.baselines.cluit_mel.blocks import initialised
from w2w.baselines.cluit_mel.config import CluitMelConfig
from w2w.baselines.cluit_mel.generator import Generator, Trunk, whole_blocks

Mel = Float[Tensor, "batch n_mels frames"]


class StyleEncoder(nn.Module):
    """Log-mels of any length to a voice: the mean over all positions of the trunk, then one Linear."""

    def __init__(self, config: CluitMelConfig) -> None:
        super().__init__()
        self.config = config
        self.trunk = Trunk(config)
        self.head = initialised(nn.Linear(self.trunk.width, config.style_dim), self.trunk.width)

    def forward(self, mel: Mel) -> Float[Tensor, "batch style"]:
        """Encode natural log-mels; fewer than ``crop_frames`` are continued by their mirror image."""
        return self.head(self.trunk(mirrored(mel, self.config.crop_frames)).pooled)


def mirrored(mel: Mel, frames: int) -> Float[Tensor, "batch n_mels longer"]:
    """Play a short mel to and fro until there are ``frames`` of it."""
    have = mel.shape[-1]
    if not have:
        raise UserError("a reference of no frames has no voice: give it some speech")
    if have >= frames:
        return mel
    position = torch.arange(frames, device=mel.device) % (2 * have)
    return mel[..., torch.where(position < have, position, 2 * have - 1 - position)]


Voice = Float[Tensor, "batch style"]

PIECE_BLOCKS = 256
"""Blocks converted at once where a causal form converts a long utterance: memory then does not grow."""


class CluitMelNetwork(nn.Module):
    """The converter and the style encoder, on natural log-mels as ``data.frontends.LogMel`` makes them."""

    def __init__(self, config: CluitMelConfig) -> None:
        super().__init__()
        self.config = config
        self.generator = Generator(config)
        self.style_encoder = StyleEncoder(config)

    @property
    def mel(self) -> MelConfig:
        return self.config.mel

    @property
    def voice_dim(self) -> int:
        return self.config.style_dim

    @property
    def frames_per_step(self) -> int:
        """Frames that a step takes a multiple of, and that hear each other."""
        return self.config.frames_per_step

    @property
    def streams(self) -> bool:
        """Whether mels may be converted in pieces."""
        return not self.needs_whole

    @property
    def needs_whole(self) -> str:
        """Why the whole utterance is needed; empty where it is not."""
        if self.config.norm == "instance":
            return "network.norm is 'instance', which needs the whole utterance"
        return "" if self.config.causal else "network.causal is false: its convolutions hear what comes"

    def style_of_mel(self, mel: Mel) -> Voice:
        return self.style_encoder(mel)

    def forward(self, mel: Mel, voice: Voice) -> Mel:
        """Convert whole mels; the result has as many frames. The last block is filled with its last frame."""
        frames = mel.shape[-1]
        if not frames:
            raise UserError("there is nothing to convert in a mel of no frames")
        mel = whole_blocks(mel, self.frames_per_step)
        piece = PIECE_BLOCKS * self.frames_per_step
        if self.streams and not torch.is_grad_enabled() and not self._uses_own_statistics and frames > piece:
            modulations, pasts = self.generator.modulations(voice), self.generator.begin(len(mel))
            parts = []
            for part in mel.split(piece, dim=-1):
                out, pasts = self.generator.run(self.config.standardised(part), modulations, pasts)
                parts.append(self.config.restored(out))
            return torch.cat(parts, dim=-1)[..., :frames]
        standard = self.config.standardised(mel)
        if self._uses_own_statistics and not mel.requires_grad:  # else it was made here, in a cycle
            self.generator.keep(standard)
        return self.config.restored(self.generator(standard, voice))[..., :frames]

    def begin(self, batch: int) -> dict[str, Any]:
        """Silence, and no voice yet."""
        return {"generator": self.generator.begin(batch), "voice": None, "modulations": None}

    def step(self, mel: Mel, voice: Voice, state: dict[str, Any]) -> tuple[Mel, dict[str, Any]]:
        """Convert one chunk of whole blocks of ``frames_per_step``; chunks in order equal one ``forward``.

        What the voice does is computed when it changes, not at every step.
        """
        if not self.streams:
            raise UserError(f"{self.needs_whole}: it cannot take chunks")
        if mel.shape[-1] % self.frames_per_step:
            raise ValueError(f"{mel.shape[-1]} frames are not whole blocks of {self.frames_per_step}")
        assert not self._uses_own_statistics, "frozen statistics are used in evaluation: call eval() before"
        if not mel.shape[-1]:
            return mel, state
        held, modulations = state["voice"], state["modulations"]
        if held is None or torch.is_grad_enabled() or not torch.equal(held, voice):
            held, modulations = voice.clone(), self.generator.modulations(voice)
        out, after = self.generator.run(self.config.standardised(mel), modulations, state["generator"])
        return self.config.restored(out), {"generator": after, "voice": held, "modulations": modulations}

    @torch.no_grad()
    def freeze_statistics(self, mel: Mel) -> None:
        """Normalise all that is said from now on by the statistics of a recorded clip, for every voice.

        The clip itself is kept, its first ``MEDLEY_CROPS`` crops or, if shorter, played to and fro, and is
        converted once to every new voice: statistics behind an AdaIN depend on the voice. Training
        forgets it.
        """
        if self.config.norm != "frozen":
            raise UserError(f"network.norm is {self.config.norm!r}, which keeps no statistics: 'frozen' does")
        if mel.shape[-1] < self.config.crop_frames:
            raise UserError(
                f"a clip of {mel.shape[-1]} frames is too short for statistics: record at least "
                f"{self.config.crop_frames / self.mel.frame_rate:.1f} seconds of speech"
            )
        frames = self.generator.clip.shape[-1]
        self.generator.clip.copy_(self.config.standardised(mirrored(mel[:1], frames))[0, :, :frames])

    def fold(self) -> "CluitMelNetwork":
        """Compute once what depends on the weights alone: for use, after they were loaded. Returns itself."""
        return fold_weight_norm(self)

    @property
    def _uses_own_statistics(self) -> bool:
        return self.config.norm == "frozen" and self.training
