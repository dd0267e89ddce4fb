"""Configuration of the converter's networks."""

from dataclasses import dataclass, field
from typing import ClassVar

from engine.user_error import UserError
from pretrain.causal.encoder import CausalEncoderConfig
from pretrain.pitch.network import PitchNetworkConfig
from w2w.networks.decoder import DecoderConfig
from w2w.networks.style import StyleConfig


@dataclass(frozen=True, kw_only=True)
class TrunkConfig:
    """Sizes of a pretrained speech encoder; inside a converter it runs without dropout."""

    sample_rate: int = 16_000
    """Hz."""
    conv_dims: tuple[int, ...] = (512,) * 7
    """Channels of each convolution on the wave."""
    conv_kernels: tuple[int, ...] = (10, 3, 3, 3, 3, 2, 2)
    """Kernel size of each convolution."""
    conv_strides: tuple[int, ...] = (5, 2, 2, 2, 2, 2, 2)
    """Stride of each convolution; their product is the encoder's hop."""
    conv_bias: bool = False
    """Whether the convolutions add a bias."""
    filterbank: bool = False
    """Whether the first convolution is initialised with band-pass filters."""
    hidden: int = 768
    """Channels of the transformer."""
    layers: int = 12
    """Layers of the transformer."""
    heads: int = 12
    """Attention heads."""
    ffn: int = 3072
    """Inner channels of the feed-forward layers."""
    position_layers: int = 5
    """Grouped convolutions that encode the position."""
    position_kernel: int = 19
    """Kernel size of each positional convolution, in frames."""
    position_groups: int = 16
    """Groups of each positional convolution."""
    layer: int = 0
    """Layer whose output is used, counted from 1; 0: a learned mixture of all layers."""


@dataclass(frozen=True, kw_only=True)
class ConverterConfig:
    """Configuration of all networks of the converter."""

    KIND: ClassVar[str] = "converter"
    sample_rate: int = 16_000
    """Sampling rate of input and output waves in Hz."""
    look_ahead_ms: float = 8.0
    """Milliseconds of future input that outputs may depend on; streaming latency is this plus one hop."""
    content_ahead_ms: float = 0.0
    """Additional look-ahead of the content code in milliseconds; it adds to the latency."""
    pitch_memory_s: float = 10.0
    """Time constant of the running mean of the source's log-F0 in seconds."""
    pitch_predictor: bool = True
    """Whether each frame's distance from the speaker's mean log-F0 is predicted from its spectrum, so that
    the mean is known after a few frames."""
    pitch: PitchNetworkConfig | None = None
    """The F0 tracking network, trained by ``pretrain/f0.py``; none: a classical tracker. Its look-ahead is
    ``look_ahead_ms``, or that of the codes, or, where whole utterances are encoded, any whole number of
    frames more than ``look_ahead_ms``."""
    content: CausalEncoderConfig = field(default_factory=CausalEncoderConfig)
    """The content encoder."""
    recogniser: str | None = None
    """A frozen recogniser whose encoder replaces the content encoder's mels and needs whole utterances:
    ``moonshine``, which is included with the code, or a folder."""
    recogniser_layers: tuple[int, ...] = ()
    """Layers of Moonshine's encoder, counted from 1, whose outputs are encoded together with its last hidden
    states: earlier ones contain more of the acoustics, and more of the voice."""
    trunk: TrunkConfig | None = None
    """A pretrained speech encoder that replaces the content encoder's mels and needs whole utterances."""
    style: StyleConfig = field(default_factory=StyleConfig)
    """The style encoder."""
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    """The decoder."""

    def __post_init__(self) -> None:
        if self.hop % 80:
            raise UserError(
                f"a hop of {self.hop} samples is not a multiple of 80: choose a sample_rate that is a"
                " multiple of 8 kHz and a content.hop_ms of 10"
            )
        if self.recogniser and self.trunk:
            raise UserError("a converter has a recogniser or a pretrained trunk, not both: leave one out")
        if self.recogniser_layers and not self.recogniser:
            raise UserError(
                f"recogniser_layers={list(self.recogniser_layers)} needs a recogniser: set"
                " converter.recogniser, or leave the layers out"
            )
        if self.content_ahead_ms < 0 or (self.content_ahead_ms and not self.streams):
            raise UserError(
                f"content_ahead_ms={self.content_ahead_ms} must be 0 or more, and 0 with a recogniser or a"
                " trunk, which encode whole utterances"
            )
        if self.pitch is None:
            return
        if (self.pitch.sample_rate, self.pitch.hop) != (self.sample_rate, self.hop):
            raise UserError(
                f"the F0 tracker runs at {self.pitch.sample_rate} Hz every {self.pitch.hop_ms} ms: it must"
                f" match the converter's {self.sample_rate} Hz and {self.content.hop_ms} ms"
            )
        allowed = self.frames_ahead if self.streams else max(self.pitch_ahead, 0)
        if self.pitch.look_ahead_ms - self.look_ahead_ms not in (0.0, allowed * self.content.hop_ms):
            raise UserError(
                f"the F0 tracker was trained with {self.pitch.look_ahead_ms} ms of look-ahead: set"
                " converter.look_ahead_ms to that, or converter.content_ahead_ms to the difference, or train"
                " another by pretrain/f0.py --model.look-ahead-ms"
            )

    @property
    def hop(self) -> int:
        """Samples between frames."""
        return round(self.sample_rate * self.content.hop_ms / 1000)

    @property
    def streams(self) -> bool:
        return self.trunk is None and not self.recogniser

    @property
    def window(self) -> int:
        """Length of the analysis window in samples."""
        return round(self.sample_rate * self.content.window_ms / 1000)

    @property
    def look_ahead(self) -> int:
        """Samples of future input that an output sample may depend on."""
        return round(self.sample_rate * self.look_ahead_ms / 1000) + self.frames_ahead * self.hop

    @property
    def frames_ahead(self) -> int:
        """Look-ahead of the codes in frames, beyond that of the decoder's other inputs."""
        return round(self.content_ahead_ms / self.content.hop_ms)

    @property
    def pitch_ahead(self) -> int:
        """Look-ahead of the F0 tracker in frames, beyond ``look_ahead_ms``."""
        more = self.pitch.look_ahead_ms - self.look_ahead_ms if self.pitch else 0.0
        return round(more / self.content.hop_ms)
