"""The small CLIP: learning, exact resumption, and equal embeddings in open_clip."""

from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch

from data.batches import Address
from engine.loop import LoopConfig
from engine.optim import OptimConfig
from engine.user_error import UserError
from pretrain.clip.small_clip import (
    PicturesAndCaptions,
    SmallCLIP,
    SmallCLIPConfig,
    save_small_clip,
    train_small_clip,
)
from pretrain.clip.towers import TowersConfig, open_towers

TINY = SmallCLIPConfig(
    dim=8,
    picture_size=32,
    picture_width=4,
    text_width=16,
    text_layers=1,
    text_heads=2,
    context_length=10,
    batch=4,
    optim=OptimConfig(lr=3e-3),
)
CAPTIONS = ["a red thing", "a blue thing", "something green", "Grey, nothing else!"]


def pictures() -> torch.Tensor:
    return torch.randint(256, (4, 3, 32, 32), dtype=torch.uint8)


def train(seen: torch.Tensor, out: Path, steps: int) -> SmallCLIP:
    loop = LoopConfig(out=out, steps=steps, save_every=2, sample_every=0, trackers="none", cpu=True)
    return train_small_clip(seen, CAPTIONS, range(4), TINY, loop)


def test_saved_folder_opens_with_equal_embeddings(tmp_path):
    seen = pictures()
    clip = train(seen, tmp_path / "run", 3)
    towers = open_towers(TowersConfig(name=str(save_small_clip(clip, tmp_path / "clip"))))
    torch.testing.assert_close(towers.images(seen), clip.images(seen), rtol=0, atol=1e-6)
    texts = [*CAPTIONS, "unknown words: zebra, é", "word " * 30]
    torch.testing.assert_close(towers.texts(texts), clip.texts(texts), rtol=0, atol=1e-6)
    assert towers.dim == TINY.dim
    assert towers.picture_size == 32
    with pytest.raises(AssertionError):
        torch.testing.assert_close(clip.texts(texts[:1]), clip.texts(texts[1:2]))


def test_half_precision_halves_the_file_and_hardly_changes_the_embeddings(tmp_path):
    seen = pictures()
    clip = train(seen, tmp_path / "run", 1)
    folders = [save_small_clip(clip, tmp_path / str(half), half=half) for half in (True, False)]
    small, large = ((folder / "open_clip_model.safetensors").stat().st_size for folder in folders)
    assert small < 0.65 * large
    half = open_clip.create_model(f"local-dir:{folders[0]}").eval()
    with torch.no_grad():
        image = half.encode_image((seen.float() / 255 - 0.5) / 0.5, normalize=True)
    assert (image * clip.images(seen)).sum(1).min() > 0.999


def test_pairs_can_be_learned(tmp_path):
    seen = pictures()
    clip = train(seen, tmp_path / "run", 30)
    clip.train()  # BatchNorm's running statistics have not converged after so few steps
    found = (clip.images(seen) @ clip.texts(CAPTIONS).T).argmax(1)
    assert found.tolist() == [0, 1, 2, 3]


def test_resuming_is_exact(tmp_path):
    seen = pictures()
    straight = train(seen, tmp_path / "a", 4).state_dict()
    train(seen, tmp_path / "b", 2)
    resumed = train(seen, tmp_path / "b", 4).state_dict()
    for name, tensor in straight.items():
        assert torch.equal(tensor, resumed[name]), name


def test_batch_contains_one_row_of_each_group():
    groups = np.array([0, 1, 2, 0, 1, 2, 0, 1])
    seen, tokens = torch.zeros(8, 3, 2, 2, dtype=torch.uint8), torch.arange(8)[:, None]
    pairs = PicturesAndCaptions(seen, tokens, groups, batch=64)
    rows = [pairs[Address(0, step)].tokens[:, 0].tolist() for step in range(30)]
    assert all(sorted(groups[row]) == [0, 1, 2] for row in rows)
    assert {index for row in rows for index in row} == set(range(8))


def test_images_of_another_size_are_refused(tmp_path):
    with pytest.raises(UserError, match="do not fit picture_size=32"):
        train(torch.zeros(4, 3, 64, 64, dtype=torch.uint8), tmp_path, 1)
