"""Published checkpoints: the same output through ``load_vocoder``, names there and back, clear refusals."""

import contextlib
import os
import pickle
import re
from argparse import Namespace
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from data.frontends import named_mel
from engine.torch_files import read_torch_file
from engine.user_error import UserError
from vocoders import load_vocoder
from vocoders.hifigan import V1_16K, V2, V3, HiFiGAN
from vocoders.melgan import MelGAN, MelGANConfig
from vocoders.published import to_published
from vocoders.published.layout import (
    adversary_states,
    from_published,
    kind_of_layout,
    network_state,
)
from vocoders.waveglow import WAVEGLOW_TINY, WaveGlow
from vocoders.wavenet.network import WaveNetConfig

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
def test_names_go_there_and_back(published, name):
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
def test_shapes_explain_themselves(network):
    kind = type(network).__name__.lower()
    state = to_published(network.state_dict())
    assert kind_of_layout(state, "here") == kind
    assert load_vocoder(kind, state).config.network == network.config


def test_data_parallel_prefixes_are_taken_off():
    state = HiFiGAN(replace(V2, channels=16)).state_dict()
    wrapped = {"generator": {f"module.{name}": tensor for name, tensor in to_published(state).items()}}
    assert network_state(wrapped, "here").keys() == to_published(state).keys()
    load_vocoder("hifigan", wrapped)


@pytest.mark.parametrize("prefix", ["generator.", "model.generator.", "module.net_g."])
def test_the_generator_is_found_under_any_prefix_beside_other_networks(prefix):
    state = to_published(HiFiGAN(replace(V2, channels=16)).state_dict())
    wrapped = {prefix + name: tensor for name, tensor in state.items()} | {"critic.bias": torch.zeros(1)}
    assert network_state(wrapped, "here").keys() == state.keys()


def test_weights_of_nan_are_refused():
    state = to_published(HiFiGAN(replace(V2, channels=16)).state_dict())
    state["conv_pre.bias"] = state["conv_pre.bias"] * float("nan")
    with pytest.raises(UserError, match=r"here holds NaN in conv_pre\.bias"):
        network_state(state, "here")


def test_discriminators_are_told_by_what_they_hear(published):
    mpd, msd = (published(f"hifigan_{kind}_tiny")["state_dict"] for kind in ("mpd", "msd"))
    assert set(adversary_states({"mpd": mpd, "msd": msd, "steps": 1}, "do_1")) == {"periods", "scales"}
    critic = published("melgan_discriminator_tiny")["state_dict"]
    assert set(adversary_states(critic, "netD.pt")) == {"windows"}
    with pytest.raises(UserError, match="discriminators are expected"):
        adversary_states(HiFiGAN(replace(V2, channels=16)).state_dict(), "g_1")


class Anything(torch.nn.Module):
    """Stands for a published module that was pickled whole."""


def small(tmp_path):
    path = tmp_path / "g_1"
    torch.save({"generator": to_published(HiFiGAN(replace(V2, channels=16)).state_dict())}, path)
    return path


def test_a_pickled_module_is_refused_with_the_way_round(tmp_path):
    path = tmp_path / "waveglow_256channels.pt"
    torch.save({"model": Anything()}, path)
    with pytest.raises(
        UserError, match=r"Anything.*never opened.*run once.*state_dict.*waveglow_256"
    ) as told:
        load_vocoder("waveglow", path)
    assert "\n" not in str(told.value)


def test_options_beside_the_weights_do_no_harm(tmp_path):
    state = to_published(HiFiGAN(replace(V2, channels=16)).state_dict())
    torch.save({"generator": state, "args": Namespace(lr=1e-4)}, tmp_path / "g.pt")
    load_vocoder("hifigan", tmp_path / "g.pt")


class Extra:
    """An object of training code beside the weights."""


def test_the_printed_way_round_works(tmp_path):
    state = to_published(HiFiGAN(replace(V2, channels=16)).state_dict())
    torch.save({"generator": {**state, "extra": Extra()}, "x": Extra()}, tmp_path / "g.pt")
    with pytest.raises(UserError, match="never opened") as told:
        load_vocoder("hifigan", tmp_path / "g.pt")
    script = re.search(r'-c "(.*?)"` and give (\S+)', str(told.value))
    assert script is not None
    with contextlib.chdir(tmp_path):
        exec(script[1], {})
    load_vocoder("hifigan", tmp_path / script[2])


@pytest.mark.parametrize("module", ["os", "builtins"])
def test_a_file_that_would_run_something_is_not_to_be_opened(tmp_path, module):
    class Trap:
        def __reduce__(self):
            return (os.system if module == "os" else eval, ("1",))

    torch.save({"generator": Trap()}, tmp_path / "g.pt")
    with pytest.raises(UserError, match="do not open it") as told:
        load_vocoder("hifigan", tmp_path / "g.pt")
    assert "weights_only=False" not in str(told.value)


def test_nothing_in_a_pickle_is_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    for save in (torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))):
        save({"model": Trap()}, tmp_path / "trap.pt")
        with pytest.raises(UserError):
            load_vocoder("waveglow", tmp_path / "trap.pt")
        assert not (tmp_path / "sprung").exists()


@settings(max_examples=12, deadline=None)
@given(share=st.floats(0, 0.999))
def test_a_truncated_checkpoint_is_refused(tmp_path_factory, share):
    path = small(tmp_path_factory.mktemp("cut"))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(UserError, match=r"whole PyTorch checkpoint|is no PyTorch checkpoint"):
        read_torch_file(path)


@settings(max_examples=12, deadline=None)
@given(noise=st.binary(max_size=200))
def test_noise_is_refused(tmp_path_factory, noise):
    path = tmp_path_factory.mktemp("noise") / "g_1"
    path.write_bytes(noise)
    with pytest.raises(UserError):
        load_vocoder("hifigan", path)


def test_an_unknown_layout_is_told_with_what_was_found():
    with pytest.raises(UserError, match=r"encoder\.weight.*known are.*hifigan, melgan"):
        load_vocoder("hifigan", {"encoder.weight": torch.zeros(1)})
    with pytest.raises(UserError, match="found epoch"):
        load_vocoder("hifigan", {"epoch": 1})


def test_weights_of_another_network_are_refused_by_name(tmp_path):
    with pytest.raises(UserError, match="holds hifigan weights, not melgan"):
        load_vocoder("melgan", small(tmp_path))
    with pytest.raises(UserError, match="there is no weights file"):
        load_vocoder("melgan", tmp_path / "netG.pt")


def test_shapes_that_contradict_the_config_name_the_first_tensor(tmp_path):
    with pytest.raises(UserError, match=r"conv_pre.*has shape.*instead of"):
        load_vocoder("hifigan", small(tmp_path), V2)


def test_a_config_for_another_network_is_refused(tmp_path):
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


def test_shapes_that_leave_something_open_ask_for_the_config():
    state = HiFiGAN(replace(V2, channels=16, upsample_kernels=(10, 10, 4, 4))).state_dict()
    with pytest.raises(UserError, match="give its configuration"):
        load_vocoder("hifigan", state)


def test_a_published_wavenet_preset_is_understood():
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
    network, mel, gain, pre_emphasis = from_json("wavenet", preset, "mulaw256.json")
    assert (gain, pre_emphasis) == (0.55, 0.85)
    assert isinstance(network, WaveNetConfig)
    assert (network.residual, network.local.hop, network.global_) == (128, 256, None)
    assert (mel.f_min, mel.log) == (125.0, "log10")
