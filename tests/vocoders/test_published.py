"""Published checkpoints: equal outputs through ``load_vocoder``, tensor names, configs, and errors."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from data.frontends import named_mel
from engine.user_error import UserError
from vocoders import load_vocoder
from vocoders.hifigan import V1_16K, V2, V3, HiFiGAN
from vocoders.melgan import MelGAN, MelGANConfig
from vocoders.published.layout import (
    adversary_states,
    from_published,
    fuse_old_layout,
    kind_of_layout,
    network_state,
    to_published,
)
from vocoders.waveglow import WAVEGLOW_TINY, WaveGlow, WaveGlowConfig
from vocoders.wavenet.network import WaveNetConfig

OLD_WAVEGLOW = WaveGlowConfig(n_mels=20, n_flows=3, n_early_every=2, n_layers=2, n_channels=8)
WAVENETS = ["mol_local", "mulaw256_local", "mulaw256_local_global"]


@pytest.mark.parametrize("version", ["v1", "v2", "v3"])
def test_hifigan_equals_the_published_output(published, version):
    theirs = published(f"hifigan_{version}_generator")
    for stored, config, fold in (
        ("state_dict", theirs["config"], True),
        ("state_dict", None, False),  # the shapes say as much as the configuration
        ("state_dict_folded", None, True),
    ):
        vocoder = load_vocoder("hifigan", {"generator": theirs[stored]}, config, fold=fold)
        assert vocoder.mel == named_mel("hifigan")
        assert_close(vocoder(theirs["input"]), theirs["output"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("fold", [True, False])
def test_melgan_equals_the_published_output(published, fold):
    theirs = published("melgan_generator_tiny")
    vocoder = load_vocoder("melgan", theirs["state_dict"], fold=fold)
    assert vocoder.mel.log == "log10"
    assert_close(vocoder(theirs["input"]), theirs["output"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("fold", [True, False])
def test_waveglow_equals_the_published_output(published, fold):
    theirs = published("waveglow_tiny")
    vocoder = load_vocoder("waveglow", theirs["state_dict"], fold=fold)
    flow = vocoder.network(theirs["input"]["mel"], theirs["input"]["audio"][:, None])
    assert_close(flow.z, theirs["output"]["z"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("fold", [True, False])
@pytest.mark.parametrize("variant", WAVENETS)
def test_wavenet_equals_the_published_output(published, variant, fold):
    theirs = published(f"wavenet_r9y9_{variant}")
    checkpoint = {"state_dict": theirs["state_dict"], "optimizer": None, "global_step": 1}
    vocoder = load_vocoder("wavenet", checkpoint, theirs["config"], fold=fold)
    given = theirs["input"]
    x = given["ids"] if given["x"] is None else given["x"]
    speaker = None if given["g"] is None else given["g"][:, 0]
    assert_close(vocoder.network(x, given["c"], speaker), theirs["output"], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "name",
    [
        "hifigan_v1_generator",
        "hifigan_mpd_tiny",
        "hifigan_msd_tiny",
        "melgan_generator_tiny",
        "melgan_discriminator_tiny",
        "waveglow_tiny",
        "wavenet_r9y9_mol_local",
    ],
)
def test_renaming_of_tensors_is_invertible(published, name):
    state = published(name)["state_dict"]
    ours = from_published(state)
    assert not any(key.endswith(("weight_g", "weight_v", "weight_orig")) for key in ours)
    back = to_published(ours)
    assert back.keys() == state.keys()
    assert all(back[key] is state[key] for key in state)
    assert from_published(ours).keys() == ours.keys()


@pytest.mark.parametrize(
    "network",
    [
        HiFiGAN(replace(V2, channels=16)),
        HiFiGAN(replace(V3, channels=16)),
        HiFiGAN(replace(V1_16K, channels=16)),
        MelGAN(MelGANConfig(channels=2)),
        MelGAN(MelGANConfig(channels=2, ratios=(5, 4, 4, 2), n_residual_layers=2)),
        WaveGlow(WAVEGLOW_TINY),
    ],
    ids=lambda network: type(network).__name__,
)
def test_config_is_inferred_from_shapes(network):
    kind = type(network).__name__.lower()
    state = to_published(network.state_dict())
    assert kind_of_layout(state, "here") == kind
    assert load_vocoder(kind, state).config.network == network.config


def test_data_parallel_prefixes_are_removed():
    state = HiFiGAN(replace(V2, channels=16)).state_dict()
    wrapped = {"generator": {f"module.{name}": tensor for name, tensor in to_published(state).items()}}
    assert network_state(wrapped, "here").keys() == to_published(state).keys()
    load_vocoder("hifigan", wrapped)


@pytest.mark.parametrize("prefix", ["generator.", "model.generator.", "module.net_g."])
def test_generator_is_found_under_any_prefix(prefix):
    state = to_published(HiFiGAN(replace(V2, channels=16)).state_dict())
    wrapped = {prefix + name: tensor for name, tensor in state.items()} | {"critic.bias": torch.zeros(1)}
    assert network_state(wrapped, "here").keys() == state.keys()


def test_nan_weights_are_refused():
    state = to_published(HiFiGAN(replace(V2, channels=16)).state_dict())
    state["conv_pre.bias"] = state["conv_pre.bias"] * float("nan")
    with pytest.raises(UserError, match=r"here holds NaN in conv_pre\.bias"):
        network_state(state, "here")


def test_discriminators_are_recognised_by_their_names(published):
    mpd, msd = (published(f"hifigan_{kind}_tiny")["state_dict"] for kind in ("mpd", "msd"))
    assert set(adversary_states({"mpd": mpd, "msd": msd, "steps": 1}, "do_1")) == {"periods", "scales"}
    critic = published("melgan_discriminator_tiny")["state_dict"]
    assert set(adversary_states(critic, "netD.pt")) == {"windows"}
    with pytest.raises(UserError, match="discriminators are expected"):
        adversary_states(HiFiGAN(replace(V2, channels=16)).state_dict(), "g_1")


def small(tmp_path):
    path = tmp_path / "g_1"
    torch.save({"generator": to_published(HiFiGAN(replace(V2, channels=16)).state_dict())}, path)
    return path


def test_unknown_layout_error_names_the_tensors():
    with pytest.raises(UserError, match=r"encoder\.weight.*known are.*hifigan, melgan"):
        load_vocoder("hifigan", {"encoder.weight": torch.zeros(1)})
    with pytest.raises(UserError, match="found epoch"):
        load_vocoder("hifigan", {"epoch": 1})


def test_weights_of_another_network_are_refused(tmp_path):
    with pytest.raises(UserError, match="holds hifigan weights, not melgan"):
        load_vocoder("melgan", small(tmp_path))
    with pytest.raises(UserError, match="there is no weights file"):
        load_vocoder("melgan", tmp_path / "netG.pt")


def test_shape_mismatch_error_names_the_tensor(tmp_path):
    with pytest.raises(UserError, match=r"conv_pre.*has shape.*instead of"):
        load_vocoder("hifigan", small(tmp_path), V2)


def test_config_of_another_network_is_refused(tmp_path):
    path = small(tmp_path)
    with pytest.raises(UserError, match="configures waveglow, not hifigan"):
        load_vocoder("hifigan", path, {"waveglow_config": {}})
    with pytest.raises(UserError, match="lacks 'num_mels'"):
        load_vocoder("hifigan", path, {"upsample_rates": [8]})
    with pytest.raises(UserError, match="is for melgan"):
        load_vocoder("hifigan", path, MelGANConfig())
    config = tmp_path / "config.json"
    config.write_text("[1]")
    with pytest.raises(UserError, match="is not a configuration"):
        load_vocoder("hifigan", path, config)
    config.write_text("{")
    with pytest.raises(UserError, match="is not JSON"):
        load_vocoder("hifigan", path, config)
    with pytest.raises(UserError, match="cannot read"):
        load_vocoder("hifigan", path, tmp_path / "none.json")


def test_ambiguous_shapes_require_a_config():
    state = HiFiGAN(replace(V2, channels=16, upsample_kernels=(10, 10, 4, 4))).state_dict()
    with pytest.raises(UserError, match="give its configuration"):
        load_vocoder("hifigan", state)


def test_published_wavenet_preset_is_converted():
    from vocoders.published.configs import from_json

    preset = {
        "input_type": "mulaw-quantize",
        "preprocess": "preemphasis",
        "global_gain_scale": 0.55,
        "quantize_channels": 256,
        "out_channels": 256,
        "layers": 30,
        "stacks": 3,
        "residual_channels": 128,
        "gate_channels": 256,
        "skip_out_channels": 128,
        "kernel_size": 3,
        "cin_channels": 80,
        "cin_pad": 2,
        "gin_channels": -1,
        "n_speakers": 7,
        "upsample_conditional_features": True,
        "upsample_params": {"upsample_scales": [4, 4, 4, 4]},
        "hop_size": 256,
        "fmin": 125,
        "fmax": 7600,
    }
    described = from_json("wavenet", preset, "mulaw256.json")
    assert (described.gain, described.pre_emphasis) == (0.55, 0.85)
    network = described.network
    assert isinstance(network, WaveNetConfig)
    assert (network.residual, network.local.hop, network.global_) == (128, 256, None)
    assert (described.mel.f_min, described.mel.log) == (125.0, "log10")


def in_old_layout(state: dict[str, torch.Tensor], n: int) -> dict[str, torch.Tensor]:
    """The weights in the old layout."""
    old = {}
    for key, value in state.items():
        if ".cond_layer." in key:
            for i, part in enumerate(value.chunk(OLD_WAVEGLOW.n_layers)):
                old[key.replace("cond_layer", f"cond_layers.{i}")] = part
        elif ".res_skip_layers." in key:
            old[key.replace("res_skip", "skip")] = value[-n:]
            if len(value) > n:
                old[key.replace("res_skip", "res")] = value[:n]
        else:
            old[key] = value
    return old


@pytest.mark.parametrize("folded", [False, True])
def test_old_waveglow_layout_is_converted(folded):
    network = WaveGlow(OLD_WAVEGLOW)
    state = (network.fold() if folded else network).state_dict()
    old = in_old_layout(state, OLD_WAVEGLOW.n_channels)
    assert len(old) > len(state)
    assert_close(fuse_old_layout(old), dict(state), rtol=0, atol=0)
    assert_close(fuse_old_layout(state), dict(state), rtol=0, atol=0)
    del old[next(key for key in old if ".res_layers.0" in key)]
    with pytest.raises(UserError, match="res_layers"):
        fuse_old_layout(old)
    del old[next(key for key in old if ".cond_layers.0" in key)]
    with pytest.raises(UserError, match="missing"):
        fuse_old_layout(old)
