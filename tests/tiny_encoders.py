"""The smallest configs of pretrained encoders with all their parts."""

from transformers import MoonshineConfig

from pretrain.clip.audio_encoder import AudioEncoderConfig
from pretrain.speech.encoder import SpeechEncoderConfig
from w2w.networks.config import TrunkConfig

SIZES = {
    "conv_dims": (8, 8, 8),
    "conv_kernels": (10, 8, 4),
    "conv_strides": (10, 8, 4),
    "hidden": 16,
    "layers": 2,
    "heads": 2,
    "ffn": 16,
    "position_layers": 1,
    "position_kernel": 3,
    "position_groups": 2,
}
SPEECH = SpeechEncoderConfig(**SIZES)
TRUNK = TrunkConfig(**SIZES)
CLIP = AudioEncoderConfig(width=4, blocks=(1, 1), dim=6, n_fft=128, hop=64, hidden=8)
MOONSHINE = MoonshineConfig(
    hidden_size=16,
    intermediate_size=32,
    encoder_num_hidden_layers=1,
    decoder_num_hidden_layers=1,
    encoder_num_attention_heads=2,
    decoder_num_attention_heads=2,
    vocab_size=8,
)
