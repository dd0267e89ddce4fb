"""Shards: complete, readable as WebDataset, streamed without loss or overlap, resumed exactly."""

import json
import tarfile
from collections import Counter
from dataclasses import replace
from itertools import islice
from pathlib import Path

import fsspec
import numpy as np
import pytest
import soundfile
import torch

from data import shard as command
from data.batches import Address, DataConfig, batches, speech_crops
from data.pairs import PairConfig, pair_crops
from data.rows import SHARDS
from data.shards import ShardStream, fetch, read_index, shards_of
from engine.user_error import UserError
from pretrain.speech.batches import SpeechConfig, unlabelled_speech

RATE = 8_000
SPEAKERS = 5


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """45 recordings of five speakers, one unreadable file, and six recordings of the validation split."""
    folder, rng = tmp_path_factory.mktemp("corpus"), np.random.default_rng(0)
    lines = ["path,speaker,text,split"]
    for number in range(45):
        name = f"a.b_{number}.wav"
        wave = rng.normal(size=4000 + 40 * number) * 0.1
        soundfile.write(folder / name, wave, RATE, "PCM_16")
        lines.append(
            f"{name},s{number % SPEAKERS},words {number},{'validation' if number % 8 == 7 else 'train'}"
        )
    (folder / "broken.wav").write_bytes(b"RIFF but no more")
    lines.append("broken.wav,s1,nothing,train")
    (folder / "manifest.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def shards(corpus, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("shards") / "shards"
    with pytest.raises(SystemExit) as ended:
        command.main([str(corpus / "manifest.csv"), "--out", str(out), "--shard-mib", "0.06"])
    assert ended.value.code == 1  # one recording was left out
    return out


def config(path: Path | str, **fields) -> DataConfig:
    start = DataConfig(path=str(path), sample_rate=RATE, crop_samples=1000, reference_samples=800, batch=4)
    return replace(start, **fields)


def held(place: Path, split: str, folder: Path) -> list[tuple[str, bytes]]:
    """Text and bytes of every recording of a split, in order."""
    found = []
    for one in shards_of(read_index(str(place)), split, str(place)):
        (folder / one.name).mkdir(parents=True)
        rows = fetch(str(place), one, folder / one.name)
        found += [(row.text, row.path.read_bytes()) for row in rows]
    return found


def test_each_recording_is_in_one_shard_with_its_columns(corpus, shards, tmp_path):
    found = held(shards, "", tmp_path)
    assert sorted(text for text, _ in found) == sorted(f"words {n}" for n in range(45))
    for text, content in found:
        assert content == (corpus / f"a.b_{text.split()[1]}.wav").read_bytes()
    assert len(held(shards, "validation", tmp_path / "v")) == 5
    index = read_index(str(shards))
    assert len(index.shards) > 5
    assert index.speakers == tuple(f"s{n}" for n in range(SPEAKERS))


def test_datasets_library_streams_the_shards(shards):
    import datasets

    files = sorted(str(file) for file in shards.glob("train-*.tar"))
    text = datasets.Value("string")
    columns = {
        **{"__key__": text, "__url__": text, "wav": datasets.Value("binary")},
        "json": {"text": text, "speaker": text},
    }
    stream = datasets.load_dataset(
        "webdataset", data_files=files, split="train", streaming=True, features=datasets.Features(columns)
    )
    found = [(row["json"]["text"], row["wav"]) for row in stream]
    assert len(found) == 40
    assert all(content[:4] == b"RIFF" and text.startswith("words") for text, content in found)


@pytest.mark.parametrize(("n_ranks", "workers"), [(1, 0), (2, 0), (3, 2)])
def test_ranks_divide_the_shards_without_loss_or_overlap(shards, n_ranks, workers):
    """In an epoch of all processes each shard is used by one process, as often as it has batches."""
    seen: Counter[int] = Counter()
    for rank in range(n_ranks):
        crops = speech_crops(config(shards), rank=rank, n_ranks=n_ranks)
        stream = crops
        one_epoch = [sum(stream.n_batches[own]) for own in stream.streams]
        for step in range(max(one_epoch) * len(stream.streams)):
            if step // len(stream.streams) < one_epoch[step % len(stream.streams)]:
                seen[stream.shard_of(Address(3, step, rank))[1]] += 1
    n_batches = speech_crops(config(shards)).n_batches
    assert seen == dict(enumerate(n_batches))
    if workers:
        alone = islice(batches(config(shards), seed=3, rank=1, n_ranks=3)(0), 12)
        helped = islice(batches(config(shards), seed=3, workers=workers, rank=1, n_ranks=3)(0), 12)
        for a, b in zip(alone, helped, strict=True):
            assert torch.equal(a.wave, b.wave)
            assert torch.equal(a.utterance, b.utterance)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_resuming_in_mid_epoch_is_exact(shards, accumulate):
    whole = list(islice(batches(config(shards), seed=5, accumulate=accumulate)(0), 40))
    rest = islice(batches(config(shards), seed=5, accumulate=accumulate)(14 // accumulate), 26)
    for a, b in zip(whole[14:], rest, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b))


def test_labels_and_rows_are_numbered_globally(corpus, shards, tmp_path):
    """Speakers have the same number in all shards; a recording's number is unique."""
    crops = speech_crops(config(shards, split=""))
    texts = [text for text, _ in held(shards, "", tmp_path)]
    of_recording: dict[int, set[int]] = {}
    for step in range(40):
        batch = crops[Address(0, step)]
        for speaker, utterance in zip(batch.speaker.tolist(), batch.utterance.tolist()):
            assert crops.speakers[speaker] == f"s{int(texts[utterance].split()[1]) % SPEAKERS}"
            of_recording.setdefault(utterance, set()).add(speaker)
    assert len(of_recording) > 25
    assert crops.n_recordings == 45


def test_the_order_changes_with_seed_and_epoch(shards):
    stream = speech_crops(config(shards))
    orders = {tuple(stream._order(seed, epoch, 0)) for seed in range(3) for epoch in range(3)}
    assert len(orders) > 1
    assert {tuple(sorted(order)) for order in orders} == {tuple(sorted(stream.streams[0]))}


def test_url_and_folder_give_the_same_batches(shards):
    memory = fsspec.filesystem("memory")
    for file in shards.iterdir():
        memory.pipe(f"/corpus/{file.name}", file.read_bytes())
    here, there = speech_crops(config(shards)), speech_crops(config("memory://corpus"))
    for step in range(6):
        assert torch.equal(here[Address(0, step)].wave, there[Address(0, step)].wave)


def test_temporary_files_of_shards_are_deleted(shards, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    dead = tmp_path / "timbre-shards-999999999-x"
    dead.mkdir()
    crops = speech_crops(config(shards))
    for step in range(30):
        crops[Address(0, step)]
    crops.pool.shutdown()
    # One shard of each stream, the next one of each, and none that was before.
    assert 0 < len(list(Path(crops.folder.name).iterdir())) <= 2 * len(crops.streams)
    assert not dead.exists()
    del crops
    assert not list(tmp_path.iterdir())


def test_parallel_groups_share_a_shard(tmp_path):
    rng, lines = np.random.default_rng(1), ["path,speaker,parallel"]
    for group in range(6):
        for voice in range(3):
            wave = rng.normal(size=4000 + 100 * group) * 0.1
            soundfile.write(tmp_path / f"{group}_{voice}.wav", wave, RATE, "PCM_16")
            lines.append(f"{group}_{voice}.wav,v{voice},{group:04d}")
    (tmp_path / "pairs.csv").write_text("\n".join(lines) + "\n")
    out = tmp_path / "shards"
    command.main([str(tmp_path / "pairs.csv"), "--out", str(out), "--shard-mib", "0.02"])
    pairs = PairConfig(path=str(out), sample_rate=RATE, crop_samples=1000, batch=3)
    crops = pair_crops(pairs)
    assert len(crops.shards) > 1
    batch = crops[Address(0, 0)]
    assert batch.source.shape == batch.target.shape == (3, 1, 1000)


def test_unlabelled_speech_streams(shards):
    speech = unlabelled_speech(
        SpeechConfig(paths=(str(shards),), batch_seconds=2.0, shortest_seconds=0.2, longest_seconds=0.5),
        sample_rate=RATE,
    )
    assert isinstance(speech, ShardStream)
    assert speech[Address(0, 0)].wave.shape[-1] <= RATE // 2


def test_interrupted_packing_resumes(corpus, tmp_path, monkeypatch):
    out, written = tmp_path / "out", []
    write = command.write_shard

    def stopping(file, *rest):
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append(file.name)
        return write(file, *rest)

    args = [str(corpus / "manifest.csv"), "--out", str(out), "--shard-mib", "0.06"]
    monkeypatch.setattr(command, "write_shard", stopping)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        command.main(args)
    assert not (out / SHARDS).exists()
    monkeypatch.setattr(
        command, "write_shard", lambda file, *rest: (written.append(file.name), write(file, *rest))[1]
    )
    with pytest.raises(SystemExit):
        command.main(args)
    assert max(Counter(written).values()) == 1 or Counter(written)["train-00000.tar"] <= 2
    assert len(set(written)) == len(read_index(str(out)).shards)
    assert not list(out.glob(".*"))


def damaged(shards: Path, folder: Path, change) -> str:
    for file in shards.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    change(folder)
    return str(folder)


def cut_short(folder: Path) -> None:
    for file in folder.glob("train-*.tar"):
        file.write_bytes(file.read_bytes()[:3000])


def with_a_way_out(folder: Path) -> None:
    for file in folder.glob("train-*.tar"):
        with tarfile.open(file, "w") as tar:
            tar.addfile(tarfile.TarInfo("../../escaped.wav"))


def without_shards(folder: Path) -> None:
    for file in folder.glob("*.tar"):
        file.unlink()


def with_another_index(folder: Path) -> None:
    (folder / SHARDS).write_text(json.dumps({"shards": [{"name": "../x.tar"}]}))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (cut_short, "damaged"),
        (with_a_way_out, "not a member of a shard"),
        (without_shards, "is not there"),
        (with_another_index, "is not an index of shards"),
    ],
)
def test_damaged_shards_are_refused(shards, tmp_path, change, told):
    with pytest.raises(UserError, match=told):
        speech_crops(config(damaged(shards, tmp_path, change)))[Address(0, 0)]


def test_mistakes_are_refused(corpus, shards, tmp_path, capsys):
    with pytest.raises(UserError, match="shards for 99 processes"):
        speech_crops(config(shards), rank=98, n_ranks=99)
    with pytest.raises(UserError, match="no shards of split 'test'"):
        speech_crops(config(shards, split="test"))
    with pytest.raises(UserError, match=r"does not exist: python -m data\.shard"):
        speech_crops(config("memory://nowhere"))
    for args, told in (
        ([str(corpus / "manifest.csv"), "--out", str(shards)], "holds shards already"),
        ([str(corpus / "manifest.csv"), "--out", str(tmp_path / "x"), "--shard-mib", "0"], "above 0"),
        ([str(shards), "--out", str(tmp_path / "x")], "holds shards"),
    ):
        with pytest.raises(SystemExit):
            command.main(args)
        assert told in capsys.readouterr().err
