"""Damaged and malicious checkpoints are refused, and nothing in them is executed."""

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

from engine.torch_files import read_torch_file
from engine.user_error import UserError
from vocoders import load_vocoder
from vocoders.hifigan import V2, HiFiGAN
from vocoders.published.layout import to_published


class Anything(torch.nn.Module):
    """Stands for a published module that was pickled whole."""


def test_pickled_module_is_refused_with_a_remedy(tmp_path):
    path = tmp_path / "waveglow_256channels.pt"
    torch.save({"model": Anything()}, path)
    with pytest.raises(
        UserError, match=r"Anything.*never opened.*run once.*state_dict.*waveglow_256"
    ) as raised:
        load_vocoder("waveglow", path)
    assert "\n" not in str(raised.value)


def test_plain_objects_beside_the_weights_are_ignored(tmp_path):
    state = to_published(HiFiGAN(replace(V2, channels=16)).state_dict())
    torch.save({"generator": state, "args": Namespace(lr=1e-4)}, tmp_path / "g.pt")
    load_vocoder("hifigan", tmp_path / "g.pt")


class Extra:
    """An object of training code beside the weights."""


def test_printed_remedy_works(tmp_path):
    state = to_published(HiFiGAN(replace(V2, channels=16)).state_dict())
    torch.save({"generator": {**state, "extra": Extra()}, "x": Extra()}, tmp_path / "g.pt")
    with pytest.raises(UserError, match="never opened") as raised:
        load_vocoder("hifigan", tmp_path / "g.pt")
    script = re.search(r'-c "(.*?)"` and give (\S+)', str(raised.value))
    assert script is not None
    with contextlib.chdir(tmp_path):
        exec(script[1], {})
    load_vocoder("hifigan", tmp_path / script[2])


@pytest.mark.parametrize("module", ["os", "builtins"])
def test_malicious_pickle_is_refused_without_a_remedy(tmp_path, module):
    class Trap:
        def __reduce__(self):
            return (os.system if module == "os" else eval, ("1",))

    torch.save({"generator": Trap()}, tmp_path / "g.pt")
    with pytest.raises(UserError, match="do not open it") as raised:
        load_vocoder("hifigan", tmp_path / "g.pt")
    assert "weights_only=False" not in str(raised.value)


def test_pickled_code_is_not_executed(tmp_path):
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
def test_truncated_checkpoint_is_refused(tmp_path_factory, share):
    path = tmp_path_factory.mktemp("cut") / "g_1"
    torch.save({"generator": to_published(HiFiGAN(replace(V2, channels=16)).state_dict())}, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(UserError, match=r"whole PyTorch checkpoint|is no PyTorch checkpoint"):
        read_torch_file(path)


@settings(max_examples=12, deadline=None)
@given(noise=st.binary(max_size=200))
def test_random_bytes_are_refused(tmp_path_factory, noise):
    path = tmp_path_factory.mktemp("noise") / "g_1"
    path.write_bytes(noise)
    with pytest.raises(UserError):
        load_vocoder("hifigan", path)
