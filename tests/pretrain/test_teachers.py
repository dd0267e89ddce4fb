"""Frozen teachers: one loader for all architectures, gradients to the wave only, frame positions."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from tiny_encoders import MOONSHINE
from torch.testing import assert_close
from transformers import (
    AutoConfig,
    AutoModel,
    HubertConfig,
    Wav2Vec2Config,
    WavLMConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
)

from engine.checkpoint import export, load_weights, save_weights
from engine.user_error import UserError
from pretrain.moonshine import RELEASED
from pretrain.speech.encoder import TINY, SpeechEncoder
from pretrain.teacher import Teacher, at_times, framing_of
from pretrain.teachers import load_teacher

SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
# Not 8: on processors with AMX, oneDNN's bfloat16 convolutions of few channels and 4, 8 or 16 taps are wrong.
CONVOLUTIONS = {"conv_dim": [8, 8], "conv_kernel": [10, 7], "conv_stride": [5, 8]}
POSITIONS = {"num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2}
WAV2VEC2 = {**SMALL, **CONVOLUTIONS, **POSITIONS, "layerdrop": 0.0}
WHISPER = WhisperConfig(
    d_model=16,
    encoder_layers=1,
    decoder_layers=1,
    encoder_attention_heads=2,
    decoder_attention_heads=2,
    encoder_ffn_dim=32,
    decoder_ffn_dim=32,
    num_mel_bins=80,
    vocab_size=8,
    max_source_positions=100,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=2,
    decoder_start_token_id=1,
)
CONFIGS = {
    "moonshine": MOONSHINE,
    "whisper": WHISPER,
    "hubert": HubertConfig(**WAV2VEC2),
    "wav2vec2": Wav2Vec2Config(**WAV2VEC2),
    "wavlm": WavLMConfig(**WAV2VEC2),
}
KINDS = (*CONFIGS, "ours")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folder of a random teacher of each architecture, as published."""
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("teachers")
    for name, config in CONFIGS.items():
        AutoModel.from_config(config).save_pretrained(root / name)
    export(root / "ours", TINY, SpeechEncoder(TINY))
    return {name: root / name for name in KINDS}


@pytest.fixture(scope="module", params=KINDS)
def teacher(request: pytest.FixtureRequest, folders: dict[str, Path]) -> Teacher:
    return load_teacher(folders[request.param])


def test_features_are_normalised_and_have_the_stated_rate(teacher: Teacher) -> None:
    for samples in (4, 8_000, 16_000):
        features = teacher(0.1 * torch.randn(2, 1, samples))
        assert features.dtype == torch.float32
        assert features.shape[:2] == (2, teacher.dim)
        assert abs(features.shape[-1] - samples / teacher.hop) < 3
        assert_close(features.mean(1), torch.zeros_like(features.mean(1)), atol=1e-4, rtol=0)


def test_gradients_reach_the_wave_only(teacher: Teacher) -> None:
    teacher.train()
    assert not any(module.training for module in teacher.modules())
    wave = (0.1 * torch.randn(1, 1, 8_000)).requires_grad_()
    teacher(wave).square()[:, ::3].sum().backward()
    assert wave.grad is not None
    assert wave.grad.isfinite().all()
    assert wave.grad.any()
    assert all(p.grad is None and not p.requires_grad for p in teacher.parameters())


def test_autocast_changes_little(teacher: Teacher) -> None:
    wave = 0.1 * torch.randn(2, 1, 8_000)
    with torch.autocast("cpu", torch.bfloat16):
        half = teacher(wave)
    assert half.dtype == torch.float32
    assert F.cosine_similarity(half, teacher(wave), dim=1).mean() > 0.98


def test_frames_of_strided_convolutions_are_centred_in_their_receptive_field() -> None:
    kernels, strides = (10, 7, 3), (5, 3, 2)
    framing = framing_of(kernels, strides)
    wave = torch.zeros(1, 1, 400).requires_grad_()
    x = wave
    for kernel, stride in zip(kernels, strides):
        x = F.conv1d(x, torch.ones(1, 1, kernel), stride=stride)
    x[..., 4].sum().backward()
    assert wave.grad is not None
    seen = wave.grad[0, 0].nonzero()
    assert len(seen) == framing.shortest
    assert abs((seen[0] + seen[-1]) / 2 - (framing.offset + 4 * framing.hop)) < 1


def test_whisper_equals_the_published_one_at_full_length(folders: dict[str, Path]) -> None:
    wave = 0.1 * torch.randn(1, 1, 32_000)  # all 100 positions
    mel = WhisperFeatureExtractor(feature_size=80, chunk_length=2)(wave[0, 0].numpy(), sampling_rate=16_000)
    theirs = AutoModel.from_pretrained(folders["whisper"]).encoder(torch.tensor(mel["input_features"]))
    expected = F.layer_norm(theirs.last_hidden_state, (16,)).transpose(1, 2)
    assert_close(load_teacher(folders["whisper"])(wave), expected, atol=1e-4, rtol=1e-3)


def test_moonshine_equals_the_published_one_with_or_without_decoder(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    encoder = AutoModel.from_pretrained(folders["moonshine"]).encoder
    shutil.copy(folders["moonshine"] / "config.json", tmp_path)
    save_weights(
        {name: t.half() for name, t in encoder.state_dict().items()}, tmp_path / "encoder.safetensors"
    )
    wave = 0.1 * torch.randn(2, 1, 16_000)
    expected = F.layer_norm(encoder(wave[:, 0]).last_hidden_state, (16,)).transpose(1, 2)
    assert_close(load_teacher(folders["moonshine"])(wave), expected)
    assert_close(load_teacher(tmp_path)(wave), expected, atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize("standardise", [True, False])
def test_preprocessor_config_decides_whether_waves_are_standardised(
    folders: dict[str, Path], tmp_path: Path, standardise: bool
) -> None:
    folder = tmp_path / "hubert"
    shutil.copytree(folders["hubert"], folder)
    preprocessor = {"feature_extractor_type": "Wav2Vec2FeatureExtractor", "do_normalize": standardise}
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    teacher, wave = load_teacher(folder), torch.randn(1, 1, 8_000)
    same = torch.allclose(teacher(wave), teacher(0.01 * wave), atol=1e-3)
    assert same == standardise


def test_features_between_frames_are_interpolated_linearly() -> None:
    ramp = torch.arange(5.0).expand(2, 3, 5)
    places = torch.tensor([-1.0, 0.0, 0.25, 3.5, 4.0, 9.0])
    expected = torch.tensor([0.0, 0.0, 0.25, 3.5, 4.0, 4.0]).expand(2, 3, 6)
    assert_close(at_times(ramp, places), expected)


def test_places_are_in_frames_of_the_other_encoder(folders: dict[str, Path]) -> None:
    teacher = load_teacher(folders["moonshine"])
    assert_close(teacher.places(3, hop=160, look_ahead=128), torch.tensor([575.0, 959.0, 1343.0]) / 160)


def test_unusable_folders_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no teacher was given"):
        load_teacher("")
    with pytest.raises(UserError, match="hub:some/name"):
        load_teacher("some/name")
    with pytest.raises(UserError, match=r"config\.json is missing"):
        load_teacher(tmp_path)
    (tmp_path / "config.json").write_text("not json")
    with pytest.raises(UserError, match="is not JSON"):
        load_teacher(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(UserError, match="is a bert"):
        load_teacher(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "nothing-known"}))
    with pytest.raises(UserError, match="cannot be loaded"):
        load_teacher(tmp_path)
    shutil.copy(folders["whisper"] / "config.json", tmp_path)
    with pytest.raises(UserError, match="cannot be loaded"):
        load_teacher(tmp_path)  # no weights
    shutil.copy(folders["hubert"] / "model.safetensors", tmp_path)
    with pytest.raises(UserError, match="lacks the weights"):
        load_teacher(tmp_path)  # another model's


def test_missing_network_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="give a local folder instead"):
        load_teacher("hub:nobody/has-this-encoder")


def test_packaged_moonshine_equals_the_published_one() -> None:
    teacher, wave = load_teacher("moonshine"), 0.1 * torch.randn(1, 1, 20_480)
    assert (teacher.dim, teacher.hop, teacher.offset) == (288, 384, 447)
    theirs = AutoModel.from_config(AutoConfig.from_pretrained(RELEASED)).get_encoder().eval()
    theirs.load_state_dict({k: t.float() for k, t in load_weights(RELEASED / "encoder.safetensors").items()})
    expected = F.layer_norm(theirs(wave[:, 0]).last_hidden_state, (288,)).transpose(1, 2)
    assert expected.shape == (1, 288, 52)
    assert_close(teacher(wave), expected, atol=1e-4, rtol=0)


def test_moonshine_with_a_wrong_config_is_refused(tmp_path: Path) -> None:
    shutil.copytree(RELEASED, tmp_path, dirs_exist_ok=True)
    config = json.loads((RELEASED / "config.json").read_text())
    for changed, match in (({"hidden_size": 144}, "has shape"), ({"intermediate_size": None}, "wrong value")):
        (tmp_path / "config.json").write_text(json.dumps(config | changed))
        with pytest.raises(UserError, match=match):
            load_teacher(tmp_path)
