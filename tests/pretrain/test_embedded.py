"""Cached embeddings of scenes' images: values, reuse, interruption, damage, and several processes."""

import multiprocessing
import os
from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny_towers import write_towers
from torch.testing import assert_close

from data.audiovisual.scenes import Scene, each_picture
from engine.user_error import UserError
from pretrain.clip import embedded
from pretrain.clip.embedded import embed_scenes, embedded_scenes
from pretrain.clip.towers import TowersConfig, open_towers


@pytest.fixture
def scenes(tmp_path):
    """Return seven scenes of one to three images."""
    made = []
    for number in range(7):
        files = tuple(tmp_path / f"{number}_{part}.png" for part in range(1 + number % 3))
        for file in files:
            pixels = torch.randint(0, 256, (40, 48, 3), dtype=torch.uint8).numpy()
            Image.fromarray(pixels).save(file)
        made.append(Scene(name=str(number), audio=None, pictures=files))
    return made


@pytest.fixture
def counted(towers, monkeypatch):
    """Return a list that receives the number of images in each call of the image tower."""
    counts, images = [], type(towers).images
    monkeypatch.setattr(type(towers), "images", lambda self, p: (counts.append(len(p)), images(self, p))[1])
    return counts


def test_embedding_is_the_normalised_mean_over_the_images(scenes, towers, tmp_path, monkeypatch):
    monkeypatch.setattr(embedded, "BATCH", 4)
    vectors = embed_scenes(scenes, towers, tmp_path / "cache")
    for scene, vector in zip(scenes, vectors):
        expected = towers.images(torch.stack(list(each_picture(scene))))
        assert_close(vector, torch.nn.functional.normalize(expected.mean(0), dim=0), rtol=1e-4, atol=1e-5)


def test_cached_embeddings_are_not_computed_again(scenes, towers, tmp_path, counted):
    first = embed_scenes(scenes, towers, tmp_path / "cache")
    n_shown = sum(counted)
    assert n_shown == 13
    assert_close(embed_scenes(scenes[::-1], towers, tmp_path / "cache"), first.flip(0), rtol=0, atol=0)
    assert sum(counted) == n_shown


def test_edited_image_is_embedded_again(scenes, towers, tmp_path, counted):
    embed_scenes(scenes, towers, tmp_path / "cache")
    n_shown = sum(counted)
    Image.new("RGB", (20, 30), "red").save(scenes[0].pictures[0])
    embed_scenes(scenes, towers, tmp_path / "cache")
    assert sum(counted) == n_shown + 1


def test_other_towers_have_their_own_cache(scenes, towers, tmp_path):
    other = open_towers(TowersConfig(name=str(write_towers(tmp_path / "other", seed=1))))
    first = embed_scenes(scenes, towers, tmp_path / "cache")
    assert not torch.allclose(embed_scenes(scenes, other, tmp_path / "cache"), first)
    assert_close(embed_scenes(scenes, towers, tmp_path / "cache"), first, rtol=0, atol=0)


def test_interrupted_run_continues_after_its_last_shard(scenes, towers, tmp_path, counted, monkeypatch):
    monkeypatch.setattr(embedded, "SHARD", 2)
    embed_scenes(scenes[:4], towers, tmp_path / "cache")
    n_shown = sum(counted)
    (next((tmp_path / "cache").iterdir()) / ".half.123.tmp").write_bytes(b"a shard half written")
    vectors = embed_scenes(scenes, towers, tmp_path / "cache")
    assert sum(counted) == 13
    assert n_shown == 7
    assert not vectors.isnan().any()


def test_damaged_shard_is_computed_again(scenes, towers, tmp_path, monkeypatch):
    monkeypatch.setattr(embedded, "SHARD", 3)
    first = embed_scenes(scenes, towers, tmp_path / "cache")
    shard = sorted((tmp_path / "cache").rglob("*.safetensors"))[0]
    shard.write_bytes(shard.read_bytes()[:-7])
    with pytest.warns(UserWarning, match="damaged"):
        again = embed_scenes(scenes, towers, tmp_path / "cache")
    assert_close(again, first, rtol=0, atol=1e-6)


def test_scenes_with_unreadable_images_are_reported_and_skipped(scenes, towers, tmp_path):
    Path(scenes[2].pictures[1]).write_bytes(b"no picture")
    for _ in range(2):  # the second time from the cache
        with pytest.warns(UserWarning, match=r"1 of 7 scenes.*2_1\.png is damaged"):
            vectors = embed_scenes(scenes, towers, tmp_path / "cache")
        assert vectors.isnan().any(-1).tolist() == [number == 2 for number in range(7)]
    with pytest.warns(UserWarning, match="1 of 7"):
        usable, found = embedded_scenes(scenes, towers, tmp_path / "cache")
    assert [scene.name for scene in usable] == ["0", "1", "3", "4", "5", "6"]
    assert_close(found, vectors[[0, 1, 3, 4, 5, 6]])
    with pytest.raises(UserError, match="none of the 1 scenes"):
        embed_scenes(scenes[2:3], towers, tmp_path / "cache")


def embed_share(rank, folder, scenes, towers):
    torch.set_num_threads(1)  # a forked process has none of the parent's threads
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2
    )
    counts, images = [], type(towers).images
    type(towers).images = lambda self, p: (counts.append(len(p)), images(self, p))[1]
    embedded.SHARD = 2
    vectors = embed_scenes(scenes, towers, folder / "cache")
    torch.save((vectors, sum(counts)), folder / f"rank{rank}.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
    os._exit(0)  # gloo's threads may abort a process whose work is done


def test_two_processes_share_the_work_and_both_return_all_embeddings(scenes, towers, tmp_path):
    context = multiprocessing.get_context("fork")
    ranks = [context.Process(target=embed_share, args=(rank, tmp_path, scenes, towers)) for rank in range(2)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(60)
    assert [rank.exitcode for rank in ranks] == [0, 0]
    (first, n_first), (second, n_second) = (torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2))
    assert_close(first, second, rtol=0, atol=0)
    assert n_first + n_second == 13
    assert min(n_first, n_second) == 6
