"""The memory bank: a first-in, first-out queue of keys."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from w2w.cluit.losses import MemoryBank


@settings(deadline=None, max_examples=40)
@given(size=st.integers(1, 7), pushes=st.lists(st.integers(0, 9), max_size=8))
def test_newest_keys_stay_for_any_push_sizes(size, pushes):
    bank, history, number = MemoryBank(size, 2), [], 0
    for count in pushes:
        keys = torch.arange(number, number + count).float()[:, None].expand(-1, 2)
        bank.push(keys, torch.arange(number, number + count))
        history += range(number, number + count)
        number += count
        assert sorted(bank.labels.tolist()) == history[-size:]
        assert_close(bank.keys[:, 0], bank.labels.float())  # a key and its speaker move together


def test_empty_bank_has_no_keys():
    bank = MemoryBank(4, 3)
    assert bank.keys.shape == (0, 3)
    assert bank.labels.shape == (0,)


def test_oldest_key_is_replaced_first():
    bank = MemoryBank(3, 1)
    bank.push(torch.tensor([[1.0], [2.0]]), torch.tensor([1, 2]))
    bank.push(torch.tensor([[3.0], [4.0]]), torch.tensor([3, -1]))
    assert bank.keys[:, 0].tolist() == [4.0, 2.0, 3.0]
    assert bank.labels.tolist() == [-1, 2, 3]


def test_keys_have_no_gradient():
    bank, key = MemoryBank(3, 2), torch.randn(2, 2, requires_grad=True)
    bank.push(key, torch.tensor([0, 1]))
    assert not bank.keys.requires_grad
    assert not list(bank.parameters())


def test_stored_bank_continues():
    bank, copy = MemoryBank(5, 2), MemoryBank(5, 2)
    bank.push(torch.randn(7, 2), torch.arange(7))
    copy.load_state_dict(bank.state_dict())
    for each in (bank, copy):
        each.push(torch.ones(1, 2), torch.tensor([9]))
    assert_close(dict(copy.state_dict()), dict(bank.state_dict()), rtol=0, atol=0)
