"""The decoder of a few frames: codes, energy, pitch and a voice to what a head makes samples of."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from w2w.exported.heads import build_row_head
from w2w.exported.recording import remembered
from w2w.exported.rows import RowBlocks, RowStem
from w2w.networks.decoder import MEAN_LOG_F0, Decoder

State = dict[str, Tensor]


class Speaking(nn.Module):
    """How it is said.

    A frame's style is a mixture of what the tokens' styles would be, which a graph makes of a voice once, and
    holds until the voice is another.
    """

    ask: Tensor
    ask_bias: Tensor
    whole: Tensor
    whole_bias: Tensor
    of_mixture: Tensor
    of_whole: Tensor
    style_bias: Tensor

    def __init__(self, decoder: Decoder, n_frames: int) -> None:
        super().__init__()
        self.n_frames, self.needs_pitch = n_frames, decoder.needs_pitch
        self.tokens = (decoder.style.n_tokens, decoder.style.token_dim)
        self.stem = RowStem(decoder.stem, n_frames)
        self.blocks = RowBlocks(decoder.blocks, n_frames)
        self.head = build_row_head(decoder.head, n_frames)
        assert decoder.ask.bias is not None
        self._keep("ask", decoder.ask.weight[:, :, 0].T)
        self._keep("ask_bias", decoder.ask.bias)
        self._keep("whole", decoder.whole.weight.T)
        self._keep("whole_bias", decoder.whole.bias)
        weights, biases, self.widths = [], [], []
        for block in decoder.blocks:
            style: nn.Conv1d = block.style  # type: ignore[assignment]
            assert style.bias is not None
            (scale, shift), (scale_bias, shift_bias) = style.weight[:, :, 0].chunk(2), style.bias.chunk(2)
            weights += [scale, shift]
            biases += [1.0 + scale_bias, shift_bias]
        assert decoder.tint.bias is not None
        weights.append(decoder.tint.weight[:, :, 0])
        biases.append(decoder.tint.bias)
        self.widths = [len(bias) for bias in biases]
        of_mixture, of_whole = torch.cat(weights).T.split([self.tokens[1], 2 * self.tokens[1]])
        self._keep("of_mixture", of_mixture)
        self._keep("of_whole", of_whole)
        self._keep("style_bias", torch.cat(biases))
        self.begun: State = {
            "decoder_stem": torch.zeros(self.stem.past_shape),
            "decoder_blocks": torch.zeros(self.blocks.past_shape),
            # No voice is equal to this one, so the first is heard.
            "styled_voice": torch.full((1, decoder.style.voice_dim), math.nan),
            "styles": torch.zeros(self.tokens[0], sum(self.widths)),
            **self.head.begun,  # type: ignore[dict-item]
        }

    def _keep(self, name: str, tensor: Tensor) -> None:
        self.register_buffer(name, tensor.detach().clone().contiguous())

    def forward(
        self,
        said: list[Float[Tensor, "frames _"]],
        log_f0: Float[Tensor, " frames"] | None,
        voicing: Float[Tensor, " frames"] | None,
        voice: Float[Tensor, "1 dim"],
        state: State,
    ) -> tuple[Float[Tensor, " samples"], State]:
        """Samples, and the next state; ``said`` are code and energy."""
        code, energy = said
        heard = [code, 0.3 * energy]
        if log_f0 is not None and voicing is not None:
            heard.append(torch.stack([log_f0 - MEAN_LOG_F0, voicing], dim=1).float())
        after: State = {}
        rows, after["decoder_stem"] = self.stem(torch.cat(heard, dim=1), state["decoder_stem"])
        shares = torch.addmm(self.ask_bias, rows, self.ask).softmax(1)
        styled = remembered(voice, state["styled_voice"], state["styles"], lambda: self._styles(voice))
        after |= {"styled_voice": voice.clone(), "styles": styled}
        *styles, tint = torch.mm(shares, styled).split(self.widths, dim=1)
        rows, after["decoder_blocks"] = self.blocks(rows, state["decoder_blocks"], styles)
        wave, after_head = self.head(rows + tint, log_f0, state)
        return wave, after | after_head

    def _styles(self, voice: Float[Tensor, "1 dim"]) -> Float[Tensor, "tokens styles"]:
        """What all blocks' styles, and the tint, would be where a frame asked for one token alone."""
        timbre = voice[:, :-1]
        whole = torch.addmm(self.whole_bias, timbre, self.whole)
        always = torch.addmm(self.style_bias, whole, self.of_whole)
        return torch.addmm(always, timbre.reshape(self.tokens), self.of_mixture)
