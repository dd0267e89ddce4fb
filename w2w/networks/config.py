"""What a converter is made of."""

from dataclasses import dataclass, field
from typing import ClassVar

from engine.user_error import UserError
from pretrain.causal.encoder import CausalEncoderConfig
from pretrain.pitch.network import PitchNetworkConfig
from w2w.networks.decoder import DecoderConfig
from w2w.networks.style import StyleConfig


@dataclass(frozen=True, kw_only=True)
class TrunkConfig:
    """The sizes of a speech encoder; inside a converter nothing of it is dropped."""

    sample_rate: int = 16_000
    """Hz."""
    conv_dims: tuple[int, ...] = (512,) * 7
    """Channels of each convolution on the wave."""
    conv_kernels: tuple[int, ...] = (10, 3, 3, 3, 3, 2, 2)
    """Length of each."""
    conv_strides: tuple[int, ...] = (5, 2, 2, 2, 2, 2, 2)
    """Stride of each; their product is its hop."""
    conv_bias: bool = False
    """Whether the convolutions add a bias."""
    filterbank: bool = False
    """Whether random weights begin with band-pass filters on the wave."""
    hidden: int = 768
    """Channels of the transformer."""
    layers: int = 12
    """Layers of the transformer."""
    heads: int = 12
    """Attention heads."""
    ffn: int = 3072
    """Inner channels of the feed-forward parts."""
    position_layers: int = 5
    """Grouped convolutions that tell frames where they are."""
    position_kernel: int = 19
    """Frames each of them sees."""
    position_groups: int = 16
    """Groups of each of them."""
    layer: int = 0
    """Layer whose output is taken, counted from 1; 0: all, in a learned mixture."""


@dataclass(frozen=True, kw_only=True)
class ConverterConfig:
    """All that it takes to build the converter's networks."""

    KIND: ClassVar[str] = "converter"
    sample_rate: int = 16_000
    """Hz, of all waves in and out."""
    look_ahead_ms: float = 8.0
    """Milliseconds of future that outputs may depend on; live, this and one hop are the latency."""
    content_ahead_ms: float = 0.0
    """Milliseconds of speech beyond ``look_ahead_ms`` that a code has heard; they add to the latency."""
    pitch_memory_s: float = 10.0
    """Seconds over which the source's mean log-F0 is remembered."""
    pitch_predictor: bool = True
    """Whether each frame's distance from the speaker's mean log-F0 is predicted from its spectrum, so that
    the mean is known after a few frames."""
    pitch: PitchNetworkConfig | None = None
    """The network that tracks F0, taught by ``pretrain/f0.py``; none: a classical tracker. It may hear as far
    ahead as codes do, or, where whole utterances are encoded, any whole number of frames."""
    content: CausalEncoderConfig = field(default_factory=CausalEncoderConfig)
    """What is said: the content encoder."""
    recogniser: str | None = None
    """A frozen recogniser's encoder in the place of the content encoder's mels; it needs whole utterances.
    ``moonshine`` comes with the code; another is named by its folder."""
    trunk: TrunkConfig | None = None
    """A pretrained speech encoder in the place of the content encoder's mels; it needs whole utterances."""
    style: StyleConfig = field(default_factory=StyleConfig)
    """Whose voice."""
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    """How it is said."""

    def __post_init__(self) -> None:
        if self.hop % 80:
            raise UserError(
                f"a hop of {self.hop} samples is not a multiple of 80: choose a sample_rate that is a"
                " multiple of 8 kHz and a content.hop_ms of 10"
            )
        if self.recogniser and self.trunk:
            raise UserError("a converter has a recogniser or a pretrained trunk, not both: leave one out")
        if self.content_ahead_ms < 0 or (self.content_ahead_ms and not self.streams):
            raise UserError(
                f"content_ahead_ms={self.content_ahead_ms} must be 0 or more, and 0 where a recogniser or a"
                " trunk hears whole utterances"
            )
        if self.pitch is None:
            return
        if (self.pitch.sample_rate, self.pitch.hop) != (self.sample_rate, self.hop):
            raise UserError(
                f"pitch is tracked at {self.pitch.sample_rate} Hz every {self.pitch.hop_ms} ms: it must be"
                f" the converter's {self.sample_rate} Hz and {self.content.hop_ms} ms"
            )
        allowed = self.frames_ahead if self.streams else max(self.pitch_ahead, 0)
        if self.pitch.look_ahead_ms - self.look_ahead_ms not in (0.0, allowed * self.content.hop_ms):
            raise UserError(
                f"the F0 tracker was taught with {self.pitch.look_ahead_ms} ms of look-ahead: set"
                " converter.look_ahead_ms to that, or converter.content_ahead_ms to what it is more, or teach"
                " another by pretrain/f0.py --model.look-ahead-ms"
            )

    @property
    def hop(self) -> int:
        """Samples between frames."""
        return round(self.sample_rate * self.content.hop_ms / 1000)

    @property
    def streams(self) -> bool:
        """Whether a signal may be converted in pieces."""
        return self.trunk is None and not self.recogniser

    @property
    def window(self) -> int:
        """Samples that one frame's analysis spans."""
        return round(self.sample_rate * self.content.window_ms / 1000)

    @property
    def look_ahead(self) -> int:
        """Samples of future that every output sample may depend on."""
        return round(self.sample_rate * self.look_ahead_ms / 1000) + self.frames_ahead * self.hop

    @property
    def frames_ahead(self) -> int:
        """Frames by which codes are ahead of what else the decoder hears."""
        return round(self.content_ahead_ms / self.content.hop_ms)

    @property
    def pitch_ahead(self) -> int:
        """Frames by which the F0 tracker is ahead."""
        more = self.pitch.look_ahead_ms - self.look_ahead_ms if self.pitch else 0.0
        return round(more / self.content.hop_ms)
