"""Vocoders with every kind of network: streaming, seeds, batches, loading, and errors."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from data.batches import DataConfig
from data.frontends import LogMel, named_mel
from engine.checkpoint import draft_folder, export, load_export, publish, save_checkpoint
from engine.config import save_config
from engine.user_error import UserError
from vocoders import Vocoder, VocoderConfig, cpu, load_vocoder
from vocoders import vocoder as module
from vocoders.griffin_lim import GriffinLimConfig
from vocoders.hifigan import V1_16K, V3_16K
from vocoders.loading import PACKAGED, released_folder
from vocoders.melgan import MelGANConfig
from vocoders.streaming import de_emphasised, mels_of_blocks, windows
from vocoders.synthesize import together
from vocoders.tasks.adversarial import AdversarialConfig
from vocoders.tasks.config import TrainConfig
from vocoders.waveglow import WAVEGLOW_TINY
from vocoders.wavenet.conditioning import LocalConfig
from vocoders.wavenet.network import WaveNetConfig
from vocoders.wavenet.sampling import Sampler

SPEECH = named_mel("speech16k")
NETWORKS = {
    "hifigan": replace(V1_16K, channels=16),
    "hifigan_v3": replace(V3_16K, channels=8),
    "melgan": MelGANConfig(ratios=(5, 4, 4, 2), channels=2),
    "waveglow": replace(WAVEGLOW_TINY, n_flows=2, n_early_every=1, n_layers=2, n_channels=8),
}


def random_vocoder(name: str) -> Vocoder:
    vocoder = Vocoder(VocoderConfig(mel=SPEECH, network=NETWORKS[name]))
    with torch.no_grad():
        for parameter in vocoder.network.parameters():  # initial zeros would hide errors
            parameter.add_(0.02 * torch.randn_like(parameter))
    return vocoder


def mel_of(frames: int, batch: int = 1) -> torch.Tensor:
    return torch.randn(batch, 80, frames, generator=torch.Generator().manual_seed(1)) - 5


@pytest.mark.parametrize("name", NETWORKS)
def test_pieces_equal_the_whole(name, monkeypatch):
    vocoder, mel = random_vocoder(name), mel_of(300, 2)  # blocks are 6 halos
    monkeypatch.setattr(module, "SHORTEST_BLOCK", 10_000)
    halo = vocoder.network.halo
    mel = mel[..., : 16 * halo + 5]
    whole = vocoder(mel, seed=[7, 8]) if name == "waveglow" else vocoder.network(mel)
    monkeypatch.setattr(module, "SHORTEST_BLOCK", 1)
    assert_close(vocoder(mel, seed=7), whole, rtol=0, atol=1e-5)
    pieces = vocoder.stream(mel.split([1, 50, mel.shape[-1] - 51], dim=-1), seed=[7, 8])
    assert_close(torch.cat(list(pieces), dim=-1), whole, rtol=0, atol=1e-5)


def test_noise_depends_only_on_the_seed():
    vocoder, mel = random_vocoder("waveglow"), mel_of(70)
    first = vocoder(mel, seed=1)
    assert_close(vocoder(mel, seed=1), first, rtol=0, atol=0)
    assert not torch.allclose(vocoder(mel, seed=2), first)
    assert_close(vocoder(mel.expand(2, -1, -1), seed=[1, 2])[:1], first, rtol=0, atol=1e-6)
    assert vocoder(mel, temperature=0.0).abs().sum() < first.abs().sum()
    assert not torch.equal(vocoder(mel, seed=1, denoise=0.1), first)


@pytest.mark.parametrize("name", NETWORKS)
def test_batch_of_different_lengths_equals_single_mels(name):
    vocoder = random_vocoder(name)
    several = [mel_of(frames) for frames in (3, 120, 1, 77, 120)]
    for mel, wave in zip(several, together(vocoder, several, seed=4)):
        assert_close(wave, vocoder(mel, seed=[4]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_shortest_mels_give_finite_waves(name):
    vocoder = random_vocoder(name)
    for frames in (1, 2, 4):
        wave = vocoder(mel_of(frames))
        assert wave.shape == (1, 1, frames * 160)
        assert wave.isfinite().all()


@settings(max_examples=20, deadline=None)
@given(
    cuts=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    block=st.integers(1, 20),
    halo=st.integers(0, 9),
)
def test_windows_cover_a_mel_once_with_context(cuts, block, halo):
    total = sum(cuts)
    line = torch.arange(total).float().reshape(1, 1, -1)
    at = 0
    for window in windows(line.split(cuts, dim=-1), block, halo):
        assert window.start == at
        first, end = max(0, at - halo), min(total, at + window.frames + halo)
        assert window.before == at - first
        assert_close(window.mel, line[..., first:end])
        assert window.frames <= block + halo
        at += window.frames
    assert at == total


@settings(max_examples=20, deadline=None)
@given(
    name=st.sampled_from(["hifigan", "speech16k", "speech16k_causal", "melgan"]),
    padding=st.sampled_from(["same", "center", "none"]),
    cuts=st.lists(st.integers(1, 6_000), min_size=1, max_size=5),
)
def test_mel_of_blocks_equals_mel_of_the_whole_wave(name, padding, cuts):
    config = named_mel(name)
    config = config if name.endswith("causal") else replace(config, padding=padding)
    wave = 0.1 * torch.randn(1, 1, sum(cuts) + config.n_fft)
    whole = LogMel(config)(torch.nn.functional.pad(wave, (0, -wave.shape[-1] % config.hop)))
    pieces = mels_of_blocks(wave.split([*cuts, config.n_fft], dim=-1), config)
    assert_close(torch.cat(list(pieces), dim=-1), whole, rtol=1e-4, atol=1e-4)


def test_loaded_export_equals_the_exported_vocoder(tmp_path):
    vocoder, mel = random_vocoder("hifigan"), mel_of(20)
    before = vocoder(mel)
    export(tmp_path / "kept", vocoder.config, vocoder.network)
    vocoder.network.fold()
    export(tmp_path / "folded", vocoder.config, vocoder.network)
    for folder in ("kept", "folded"):
        for loaded in (load_vocoder(str(tmp_path / folder)), load_vocoder("hifigan", tmp_path / folder)):
            assert loaded.config == vocoder.config
            assert_close(loaded(mel), before, rtol=0, atol=1e-6)
    kept = load_vocoder("hifigan", tmp_path / "kept", fold=False)
    assert len(kept.network.state_dict()) > len(load_export(tmp_path / "folded", VocoderConfig)[1])
    with pytest.raises(UserError, match="holds a hifigan vocoder, not melgan"):
        load_vocoder("melgan", tmp_path / "folded")
    with pytest.raises(UserError, match=r"'hifigan'.*'speech16k'"):
        load_vocoder("hifigan", tmp_path / "folded", mel="hifigan")


def test_run_is_loaded_with_newest_averaged_weights(tmp_path):
    network = random_vocoder("hifigan").network
    task = AdversarialConfig(network=NETWORKS["hifigan"])
    config = TrainConfig(data=DataConfig(crop_samples=8_000), mel=SPEECH, task=task)
    save_config(config, tmp_path / "config.json")
    draft = draft_folder(tmp_path, 2)
    modules = {"network": random_vocoder("hifigan").network, "network_ema": network}
    save_checkpoint(draft, modules, {}, config, {"step": 2})
    step = publish(draft, keep=1)
    loaded = load_vocoder(str(tmp_path))
    assert loaded.mel == SPEECH
    assert_close(loaded(mel_of(9)), cpu.generate(network, mel_of(9)), rtol=0, atol=1e-5)
    with pytest.raises(UserError, match="name the run"):
        load_vocoder("hifigan", step)


def test_griffin_lim_loads_as_a_vocoder():
    vocoder = load_vocoder("griffin_lim", config=GriffinLimConfig(iterations=2), mel="speech16k")
    assert vocoder(mel_of(40)).shape == (1, 1, 6_400)
    assert load_vocoder("griffin_lim").mel == named_mel("hifigan")
    with pytest.raises(UserError, match="has no weights"):
        load_vocoder("griffin_lim", "g_1")
    with pytest.raises(UserError, match="no option 'temperature'"):
        vocoder(mel_of(4), temperature=1.0)


def test_unknown_vocoder_names_are_refused(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="unknown; choose one of griffin_lim, neural_griffin_lim"):
        load_vocoder("hifigun")
    with pytest.raises(UserError, match="needs weights"):
        load_vocoder("hifigan")
    with pytest.raises(UserError, match="is unknown; choose one of"):
        load_vocoder("griffin_lim", mel="speech")
    with pytest.raises(UserError, match="holds no vocoder"):
        load_vocoder(str(tmp_path))
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file"):
        load_vocoder(str(tmp_path / "file"))
    monkeypatch.setattr("vocoders.loading.RELEASED", tmp_path)
    with pytest.raises(UserError, match="no trained vocoder comes with this copy"):
        load_vocoder("released")


@pytest.mark.parametrize(("name", "rate"), [*zip(PACKAGED, (16_000, 24_000, 16_000))])
def test_packaged_vocoders_resynthesise_a_sound(buzz, name, rate):
    vocoder = load_vocoder(name)
    assert vocoder.mel.sample_rate == rate
    weights = released_folder(name) / "model.safetensors"
    assert weights.stat().st_size < 8 * 2**20
    mel = LogMel(vocoder.mel)(buzz(rate // 2, f0=(120.0,), rate=rate))
    copy = LogMel(vocoder.mel)(vocoder(mel))
    assert (copy - mel).abs().mean() < 1.0  # of silence 7


def test_network_with_other_mel_sizes_is_refused():
    with pytest.raises(UserError, match="change one of them to match"):
        Vocoder(VocoderConfig(mel=named_mel("hifigan"), network=NETWORKS["hifigan"]))


def wavenet() -> Vocoder:
    network = WaveNetConfig(layers=2, stacks=1, residual=8, gate=16, skip=8, local=LocalConfig(scales=(160,)))
    return Vocoder(VocoderConfig(mel=SPEECH, network=network))


def test_wavenet_works_as_a_vocoder(tmp_path):
    vocoder, mel = wavenet(), mel_of(4, 2)
    options = {"sampler": Sampler(temperature=0.5), "backend": "torch"}
    whole = vocoder(mel, seed=5, **options)
    assert whole.shape == (2, 1, 4 * 160)
    pieces = vocoder.stream(mel.split(3, dim=-1), seed=[5], **options)
    assert_close(torch.cat(list(pieces), dim=-1), whole, rtol=0, atol=0)
    first, second = together(vocoder, [mel[:1], mel[1:, :, :2]], seed=5, **options)
    assert_close(first, whole[:1], rtol=0, atol=1e-5)
    assert second.shape == (1, 1, 2 * 160)
    vocoder(mel[..., :1], sampler=Sampler(way="mode"), backend="torch")
    with pytest.raises(UserError, match="no option 'denoise'"):
        vocoder(mel, denoise=0.1)
    export(tmp_path, vocoder.config, vocoder.network)
    loaded = load_vocoder("wavenet", tmp_path)
    assert_close(loaded(mel, seed=5, **options), whole, rtol=0, atol=1e-5)


@given(cuts=st.lists(st.integers(1, 200), min_size=1, max_size=5), amount=st.sampled_from([0.0, 0.5, 0.85]))
@settings(max_examples=20, deadline=None)
def test_pre_emphasis_and_gain_are_undone_in_pieces(cuts, amount):
    wave = torch.randn(2, 1, sum(cuts))
    shaped = 0.5 * wave
    shaped[..., 1:] -= amount * 0.5 * wave[..., :-1]
    back = torch.cat(list(de_emphasised(shaped.split(cuts, dim=-1), amount, 0.5)), dim=-1)
    assert_close(back, wave, rtol=1e-4, atol=1e-5)
