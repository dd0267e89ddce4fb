"""Wav2CLIP's encoder: sizes, invariances of embeddings, loading, and equality with the published code."""

import importlib
import os
import sys
from dataclasses import replace
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from engine.checkpoint import export
from engine.user_error import UserError
from pretrain import load_audio_encoder
from pretrain.clip.audio_encoder import AudioEncoder, AudioEncoderConfig
from pretrain.clip.loading import PREFIXES, WINDOW, from_published

TINY = AudioEncoderConfig(width=4, blocks=(1, 1, 1), dim=12, hidden=8)


def lively(encoder: AudioEncoder) -> AudioEncoder:
    """Set BatchNorm's statistics to random values, as after training."""
    for module in encoder.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, 0.0, 0.3)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            nn.init.normal_(module.bias, 0.0, 0.2)
    return encoder.eval()


def test_default_sizes_equal_the_papers():
    encoder = AudioEncoder(AudioEncoderConfig()).eval()
    count = {n: sum(p.numel() for p in m.parameters()) for n, m in encoder.named_children()}
    assert count == {"trunk": 11_170_240, "transform": 525_312}
    wave = torch.randn(2, 1, 16_000)
    assert encoder.spectrogram(wave).shape == (2, 257, 1 + 16_000 // 353)
    assert encoder(wave).shape == encoder.pooled(wave).shape == (2, 512)
    assert_close(encoder.features(wave).mean(-1), encoder.pooled(wave))


@pytest.mark.parametrize("samples", [512, 3_000, 16_000])
def test_clips_of_any_length_are_embedded(samples):
    encoder = AudioEncoder(TINY)
    wave = torch.randn(3, 1, samples)
    assert encoder(wave).shape == (3, 12)
    assert encoder.features(wave).shape[:2] == (3, TINY.channels)
    plain = AudioEncoder(replace(TINY, transform=False, dim=16)).eval()
    assert_close(plain(wave), plain.pooled(wave))


def test_gradients_reach_every_parameter_and_the_wave():
    encoder, wave = AudioEncoder(TINY), torch.randn(2, 1, 4_000, requires_grad=True)
    (encoder(wave) * torch.randn(2, 12)).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in encoder.parameters())
    assert wave.grad is not None
    assert wave.grad.abs().sum() > 0


def test_embedding_does_not_depend_on_the_rest_of_the_batch():
    encoder, wave = lively(AudioEncoder(TINY)), torch.randn(1, 1, 4_000)
    others = [
        torch.randn(1, 1, 4_000) * 100,
        torch.zeros(1, 1, 4_000),
        torch.cat([torch.randn(1, 1, 700), torch.zeros(1, 1, 3_300)], dim=-1),
    ]
    together = [encoder(torch.cat([wave, other])) for other in others]
    assert all(torch.equal(one[0], together[0][0]) for one in together)
    assert_close(together[0][:1], encoder(wave))


def test_reference_normalisation_depends_on_the_rest_of_the_batch():
    encoder = lively(AudioEncoder(replace(TINY, normalisation="reference")))
    wave = torch.randn(2, 1, 4_000)
    loud = torch.cat([wave[:1], 100 * wave[1:]])
    assert not torch.allclose(encoder(wave)[0], encoder(loud)[0], atol=1e-4)


def test_spectrogram_does_not_depend_on_the_level_far_above_the_floor():
    encoder, wave = AudioEncoder(TINY).eval(), torch.randn(1, 1, 4_000)
    assert_close(encoder.spectrogram(wave), encoder.spectrogram(0.25 * wave), atol=1e-3, rtol=0)


def test_spectrogram_of_silence_is_zero():
    encoder = AudioEncoder(TINY).eval()
    assert not encoder.spectrogram(torch.zeros(2, 1, 8_000)).any()
    assert encoder(torch.zeros(2, 1, 8_000)).isfinite().all()


@pytest.mark.parametrize(
    ("wave", "message"),
    [
        (torch.zeros(1, 1, 511), "shorter than the encoder's window of 512"),
        (torch.zeros(1, 1, 0), "shorter than the encoder's window"),
        (torch.zeros(0, 1, 4_000), "the batch is empty"),
        (torch.full((1, 1, 4_000), torch.nan), "not finite"),
    ],
)
def test_unusable_waves_are_refused(wave, message):
    with pytest.raises(UserError, match=message):
        AudioEncoder(TINY).eval()(wave)


@pytest.mark.parametrize("wrong", [{"n_fft": 511}, {"blocks": ()}, {"transform": False}, {"dropout": 1.0}])
def test_impossible_sizes_are_refused(wrong):
    with pytest.raises(UserError):
        replace(TINY, **wrong)


def test_published_weights_equal_torchvisions_resnet_on_torchaudios_spectrogram():
    torchaudio, torchvision = pytest.importorskip("torchaudio"), pytest.importorskip("torchvision")
    spectrogram = torchaudio.transforms.Spectrogram(n_fft=512, hop_length=353)
    resnet = torchvision.models.resnet18()
    resnet.conv1 = nn.Conv2d(1, 64, 7, stride=2, padding=3, bias=False)
    resnet.fc = nn.Identity()
    transform = nn.Sequential(nn.Linear(512, 512), nn.ReLU(), nn.Dropout(0.1), nn.Linear(512, 512))
    for module in (resnet, transform):
        module.eval()
        for parameter in module.parameters():
            nn.init.normal_(parameter, parameter.mean().item(), 0.05)
    state = {"audio_encoder.spectrogram.window": spectrogram.window}
    state |= {f"audio_encoder.{k}": v for k, v in resnet.state_dict().items()}
    state |= {f"audio_transform.sequential.{k}": v for k, v in transform.state_dict().items()}
    assert len(state) == 125

    wave = torch.cat([0.1 * torch.randn(1, 1, 20_000), 0.001 * torch.randn(1, 1, 20_000)])
    with torch.no_grad():
        level = torch.log(spectrogram(wave) + 1e-7)
        pooled = resnet((level - level.mean()) / (level.std() + 1e-9))
        encoder = from_published(state, "weights")
        encoder.config = replace(encoder.config, normalisation="reference")
        assert_close(encoder.pooled(wave), pooled, atol=5e-4, rtol=5e-4)
        assert_close(encoder(wave), transform(pooled), atol=5e-4, rtol=5e-4)


def to_published(encoder: AudioEncoder) -> dict[str, Tensor]:
    """Return an encoder's state under the published names."""
    state = {WINDOW: encoder.window.detach().clone()}
    for name, tensor in encoder.state_dict().items():
        theirs = next(theirs for theirs, ours in PREFIXES.items() if name.startswith(ours))
        state[theirs + name.removeprefix(PREFIXES[theirs])] = tensor.detach().clone()
    return state


@pytest.mark.reference
def test_embeddings_equal_the_published_codes():
    """The variable WAV2CLIP_SOURCE names a checkout of descriptinc/lyrebird-wav2clip."""
    source = os.environ.get("WAV2CLIP_SOURCE")
    if not source:
        pytest.skip("set WAV2CLIP_SOURCE to a checkout of lyrebird-wav2clip")
    sys.path.insert(0, source)
    sys.modules.setdefault("librosa", ModuleType("librosa"))  # only needed to cut frames
    published = importlib.import_module("wav2clip.model.encoder")
    ours = lively(AudioEncoder(AudioEncoderConfig(normalisation="reference")))
    theirs = published.ResNetExtractor(to_published(ours), "frozen", transform=True)
    wave = torch.cat([0.1 * torch.randn(1, 1, 48_000), 0.01 * torch.randn(1, 1, 48_000)])
    with torch.no_grad():
        difference = (ours(wave) - theirs(wave[:, 0])).abs().max()
        pooled = (ours.pooled(wave) - theirs.encoder(wave[:, 0])).abs().max()
    print(f"difference from the published code: {difference:.1e}, before the transform {pooled:.1e}")
    assert difference <= 1e-4
    assert pooled <= 1e-4


def test_published_layout_is_loaded_without_the_parameters_of_training(tmp_path):
    encoder, wave = lively(AudioEncoder(TINY)), torch.randn(2, 1, 4_000)
    extras = {
        "image_transform.sequential.0.weight": torch.zeros(8, 8),
        "loss_fn_a.logit_scale": torch.zeros(()),
        "loss_fn_i.logit_scale": torch.zeros(()),
    }
    torch.save({**to_published(encoder), **extras}, tmp_path / "Wav2CLIP.pt")
    again = load_audio_encoder("wav2clip", tmp_path / "Wav2CLIP.pt")
    assert again.config == TINY
    assert torch.equal(again(wave), encoder(wave))


def test_files_that_are_not_published_weights_are_refused(tmp_path):
    (tmp_path / "text.pt").write_text("no weights")
    with pytest.raises(UserError, match="damaged"):
        load_audio_encoder("wav2clip", tmp_path / "text.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(UserError, match="holds a list, not a checkpoint"):
        load_audio_encoder("wav2clip", tmp_path / "list.pt")
    state = to_published(AudioEncoder(TINY))
    for wrong, message in (
        ({**state, "surprise": torch.zeros(1)}, "weights contains the tensor surprise"),
        ({k: v for k, v in state.items() if "layer1.0.conv1" not in k}, r"layer1\.0\.conv1"),
        ({}, "it is not a published Wav2CLIP file"),
        ({"state_dict": [1]}, "not all it contains are named tensors"),
    ):
        with pytest.raises(UserError, match=message):
            from_published(wrong, "weights")


def test_exported_encoder_is_loaded_from_the_run_and_the_export(tmp_path):
    encoder, wave = lively(AudioEncoder(TINY)), torch.randn(1, 1, 4_000)
    export(tmp_path / "run" / "export", encoder.config, encoder)
    for place in (tmp_path / "run", tmp_path / "run" / "export"):
        assert torch.equal(load_audio_encoder("wav2clip", place)(wave), encoder(wave))
    with pytest.raises(UserError, match="no audio encoder 'openl3'"):
        load_audio_encoder("openl3", tmp_path)
    with pytest.raises(UserError, match="there is no audio encoder at"):
        load_audio_encoder("wav2clip", tmp_path / "nowhere")
    with pytest.raises(UserError, match="neither an exported"):
        load_audio_encoder("wav2clip", tmp_path)
