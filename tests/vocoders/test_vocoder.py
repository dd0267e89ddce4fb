"""Vocoders by whatever network: any length in flat memory, addressed randomness, refusals in one sentence."""

from dataclasses import replace

import numpy as np
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
from vocoders.mel_files import check_definition, check_mel, read_mel, save_mel
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


def made(name: str) -> Vocoder:
    vocoder = Vocoder(VocoderConfig(mel=SPEECH, network=NETWORKS[name]))
    with torch.no_grad():
        for parameter in vocoder.network.parameters():  # zeros at first would hide what is heard
            parameter.add_(0.02 * torch.randn_like(parameter))
    return vocoder


def mel_of(frames: int, batch: int = 1) -> torch.Tensor:
    return torch.randn(batch, 80, frames, generator=torch.Generator().manual_seed(1)) - 5


@pytest.mark.parametrize("name", NETWORKS)
def test_pieces_equal_the_whole(name, monkeypatch):
    vocoder, mel = made(name), mel_of(300, 2)  # blocks are 6 halos
    monkeypatch.setattr(module, "SHORTEST_BLOCK", 10_000)
    halo = vocoder.network.halo
    mel = mel[..., : 16 * halo + 5]
    whole = vocoder(mel, seed=[7, 8]) if name == "waveglow" else vocoder.network(mel)
    monkeypatch.setattr(module, "SHORTEST_BLOCK", 1)
    assert_close(vocoder(mel, seed=7), whole, rtol=0, atol=1e-5)
    pieces = vocoder.stream(mel.split([1, 50, mel.shape[-1] - 51], dim=-1), seed=[7, 8])
    assert_close(torch.cat(list(pieces), dim=-1), whole, rtol=0, atol=1e-5)


def test_noise_is_addressed():
    vocoder, mel = made("waveglow"), mel_of(70)
    first = vocoder(mel, seed=1)
    assert_close(vocoder(mel, seed=1), first, rtol=0, atol=0)
    assert not torch.allclose(vocoder(mel, seed=2), first)
    assert_close(vocoder(mel.expand(2, -1, -1), seed=[1, 2])[:1], first, rtol=0, atol=1e-6)
    assert vocoder(mel, temperature=0.0).abs().sum() < first.abs().sum()
    assert not torch.equal(vocoder(mel, seed=1, denoise=0.1), first)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_batch_of_different_lengths_is_what_each_would_be_alone(name):
    vocoder = made(name)
    several = [mel_of(frames) for frames in (3, 120, 1, 77, 120)]
    for mel, wave in zip(several, together(vocoder, several, seed=4)):
        assert_close(wave, vocoder(mel, seed=[4]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_shortest_mels_have_a_wave(name):
    vocoder = made(name)
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
def test_windows_cover_a_mel_once_with_all_that_is_around(cuts, block, halo):
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
def test_a_mel_in_pieces_is_the_whole_waves(name, padding, cuts):
    config = named_mel(name)
    config = config if name.endswith("causal") else replace(config, padding=padding)
    wave = 0.1 * torch.randn(1, 1, sum(cuts) + config.n_fft)
    whole = LogMel(config)(torch.nn.functional.pad(wave, (0, -wave.shape[-1] % config.hop)))
    pieces = mels_of_blocks(wave.split([*cuts, config.n_fft], dim=-1), config)
    assert_close(torch.cat(list(pieces), dim=-1), whole, rtol=1e-4, atol=1e-4)


def test_what_is_exported_is_what_is_loaded(tmp_path):
    vocoder, mel = made("hifigan"), mel_of(20)
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


def test_a_run_is_loaded_at_its_newest_and_averaged_state(tmp_path):
    network = made("hifigan").network
    task = AdversarialConfig(network=NETWORKS["hifigan"])
    config = TrainConfig(data=DataConfig(crop_samples=8_000), mel=SPEECH, task=task)
    save_config(config, tmp_path / "config.json")
    draft = draft_folder(tmp_path, 2)
    modules = {"network": made("hifigan").network, "network_ema": network}
    save_checkpoint(draft, modules, {}, config, {"step": 2})
    step = publish(draft, keep=1)
    loaded = load_vocoder(str(tmp_path))
    assert loaded.mel == SPEECH
    assert_close(loaded(mel_of(9)), cpu.generate(network, mel_of(9)), rtol=0, atol=1e-5)
    with pytest.raises(UserError, match="name the run"):
        load_vocoder("hifigan", step)


@pytest.mark.parametrize(
    ("mel", "told"),
    [
        (torch.zeros(1, 79, 10), "has 79 bands, the vocoder reads 80"),
        (torch.zeros(1, 10, 80), "transposed"),
        (torch.zeros(1, 80, 0), "no frame"),
        (torch.zeros(80, 10), r"\(80, 10\): it must be \(batch, 80, frames\)"),
        (torch.zeros(1, 80, 10, dtype=torch.long), "holds int64"),
        (torch.full((1, 80, 10), float("nan")), "holds NaN"),
        (torch.full((1, 80, 10), float("-inf")), "holds infinite.*floor"),
        (torch.full((1, 80, 10), -80.0), "in dB"),
        (torch.full((1, 80, 10), 200.0), "take its logarithm"),
        (torch.randn(1, 80, 200).clamp_min(0) - 5, "log10 mel.*multiply by ln 10"),
        (np.zeros((1, 80, 10)), "torch.from_numpy"),
    ],
)
def test_mels_that_cannot_be_read_are_refused(mel, told):
    with pytest.raises(UserError, match=told) as raised:
        check_mel(mel, SPEECH)
    assert "\n" not in str(raised.value)


def test_a_natural_mel_for_a_log10_vocoder_is_recognised():
    vocoder = Vocoder(VocoderConfig(mel=named_mel("melgan"), network=MelGANConfig(channels=2)))
    with pytest.raises(UserError, match=r"natural-log mel \(divide by ln 10\)"):
        vocoder(torch.full((1, 80, 10), -11.5))


def test_a_mel_of_another_definition_is_refused_by_name():
    with pytest.raises(UserError, match=r"'melgan'.*'speech16k'"):
        made("hifigan")(mel_of(5), definition=named_mel("melgan"))
    with pytest.raises(UserError, match="n_mels=64"):
        check_definition(replace(SPEECH, n_mels=64), SPEECH, "it")
    made("hifigan")(mel_of(5), definition=SPEECH)


def test_a_saved_mel_keeps_its_definition(tmp_path):
    mel = mel_of(5)
    save_mel(tmp_path / "a.npz", mel, SPEECH)
    assert_close(read_mel(tmp_path / "a.npz", SPEECH), mel)
    with pytest.raises(UserError, match=r"a\.npz is a mel 'speech16k'.*'hifigan'"):
        read_mel(tmp_path / "a.npz", named_mel("hifigan"))
    np.save(tmp_path / "b.npy", mel[0].numpy())
    assert_close(read_mel(tmp_path / "b.npy", SPEECH), mel)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (np.zeros((2, 80, 5), np.float32), "save one mel"),
        (np.zeros(80, np.float32), r"a mel is \(80, frames\)"),
        (np.zeros((80, 5), int), "holds int64"),
        (np.zeros((5, 80), np.float32), "transposed"),
        (np.array([{"a": 1}]), "pickled objects"),
    ],
)
def test_arrays_that_are_no_mels_are_refused(tmp_path, values, told):
    path = tmp_path / "mel.npy"
    np.save(path, values, allow_pickle=True)
    with pytest.raises(UserError, match=told):
        read_mel(path, SPEECH)


@settings(max_examples=15, deadline=None)
@given(share=st.floats(0, 0.99), kind=st.sampled_from([".npy", ".npz"]))
def test_truncated_mels_are_refused(tmp_path_factory, share, kind):
    path = tmp_path_factory.mktemp("cut") / f"mel{kind}"
    if kind == ".npz":
        save_mel(path, mel_of(5), SPEECH)
    else:
        np.save(path, mel_of(5)[0].numpy())
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(UserError, match="cannot be read as a mel"):
        read_mel(path, SPEECH)


def test_griffin_lim_is_a_vocoder():
    vocoder = load_vocoder("griffin_lim", config=GriffinLimConfig(iterations=2), mel="speech16k")
    assert vocoder(mel_of(40)).shape == (1, 1, 6_400)
    assert load_vocoder("griffin_lim").mel == named_mel("hifigan")
    with pytest.raises(UserError, match="has no weights"):
        load_vocoder("griffin_lim", "g_1")
    with pytest.raises(UserError, match="no option 'temperature'"):
        vocoder(mel_of(4), temperature=1.0)


def test_names_that_are_none_are_refused(tmp_path, monkeypatch):
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
def test_what_comes_with_the_package_copies_a_sound_at_its_rate(buzz, name, rate):
    vocoder = load_vocoder(name)
    assert vocoder.mel.sample_rate == rate
    weights = released_folder(name) / "model.safetensors"
    assert weights.stat().st_size < 8 * 2**20
    mel = LogMel(vocoder.mel)(buzz(rate // 2, f0=(120.0,), rate=rate))
    copy = LogMel(vocoder.mel)(vocoder(mel))
    assert (copy - mel).abs().mean() < 1.0  # of silence 7


def test_network_and_mel_must_agree():
    with pytest.raises(UserError, match="change one of them to match"):
        Vocoder(VocoderConfig(mel=named_mel("hifigan"), network=NETWORKS["hifigan"]))


def wavenet() -> Vocoder:
    network = WaveNetConfig(layers=2, stacks=1, residual=8, gate=16, skip=8, local=LocalConfig(scales=(160,)))
    return Vocoder(VocoderConfig(mel=SPEECH, network=network))


def test_wavenet_is_a_vocoder_of_any_length(tmp_path):
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
def test_pre_emphasis_and_gain_are_undone_piece_by_piece(cuts, amount):
    wave = torch.randn(2, 1, sum(cuts))
    shaped = 0.5 * wave
    shaped[..., 1:] -= amount * 0.5 * wave[..., :-1]
    back = torch.cat(list(de_emphasised(shaped.split(cuts, dim=-1), amount, 0.5)), dim=-1)
    assert_close(back, wave, rtol=1e-4, atol=1e-5)
