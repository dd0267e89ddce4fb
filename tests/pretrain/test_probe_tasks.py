"""The probes' tasks on a synthetic corpus, and the small encoders that are trained on folds."""

from dataclasses import replace
from functools import partial

import pytest
import soundfile
import torch
import torch.nn.functional as F

from data.manifest import Row, write_manifest
from engine.user_error import UserError
from pretrain.clip.audio_encoder import AudioEncoderConfig
from pretrain.probe.classification import classification, low_data, multi_label_scores
from pretrain.probe.clips import clips_from, targets_of
from pretrain.probe.embedders import log_mel_statistics
from pretrain.probe.fitting import PerceptronConfig, SmallEncoderConfig, fit_perceptron, train_on_labels
from pretrain.probe.harness import Embeddings
from pretrain.probe.retrieval import audio_retrieval
from pretrain.probe.zero_shot import label_vectors, real_sounds, unseen_scores, zero_shot

NAMES = ("tone", "hiss", "clicks")
TINY = SmallEncoderConfig(
    encoder=AudioEncoderConfig(width=4, blocks=(1, 1), dim=8, transform=False, hop=64),
    crop_s=0.2,
    batch=6,
    epochs=1,
    least_steps=60,
)


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """Use short trainings and few resamples."""
    quick = PerceptronConfig(epochs=40, lr=1e-2, hidden=32)
    monkeypatch.setattr("pretrain.probe.fitting.PerceptronConfig", lambda: quick)
    few = partial(multi_label_scores, n_resamples=3)
    monkeypatch.setattr("pretrain.probe.classification.multi_label_scores", few)


def sound_of(label, rng):
    """Return 0.3 s of a label's sound, with some noise."""
    time = torch.arange(4800)
    wave = {
        "tone": torch.sin(6.2832 * 1000 / 16_000 * time),
        "hiss": torch.randn(4800, generator=rng),
        "clicks": (time % 800 < 4).float(),
    }[label]
    return 0.3 * wave + 0.003 * torch.randn(4800, generator=rng)


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    """Return a folder with two clips of each of three sounds per fold; the three folds are also splits."""
    folder, rows = tmp_path_factory.mktemp("sounds"), []
    rng = torch.Generator().manual_seed(0)
    for fold, split in enumerate(("train", "validation", "test"), start=1):
        for number, label in enumerate(NAMES):
            for take in "AB":
                path = folder / f"{fold}-{number}{take == 'B':d}-{take}.wav"
                soundfile.write(path, sound_of(label, rng).numpy(), 16_000)
                several = f"{label}; sudden" if label == "clicks" else label
                extra = {"label": label, "several": several, "caption": f"some {label}"}
                rows.append(Row(path=path, split=split, extra=extra))
    write_manifest(folder / "metadata.csv", rows)
    return folder


@pytest.fixture
def vectors(tmp_path):
    """Return word vectors in which hiss lies between tone and clicks."""
    rows = {"tone": (1, 0, 0), "hiss": (0.7, 0.7, 0), "clicks": (0, 1, 0), "x": (-2, -2, -1)}
    text = "\n".join(f"{word} {' '.join(map(str, row))}" for word, row in rows.items())
    (tmp_path / "words.txt").write_text(text)
    return f"words:{tmp_path / 'words.txt'}"


def values(results):
    return {(r.encoder, r.metric): r.value for r in results}


def test_sounds_are_classified_and_stored(sounds, tmp_path, capsys):
    args = ["--data", str(sounds), "--encoder", "logmel", "--seeds", "2", "--out", str(tmp_path)]
    found = values(classification(args))
    assert found == {("logmel", "accuracy"): 1.0, ("logmel", "macro F1"): 1.0}
    assert "6 training, 6 validation, 6 test clips, 3 labels" in capsys.readouterr().out
    assert (tmp_path / "results.csv").is_file()


def test_clips_with_several_labels_are_scored_as_multi_label(sounds, tmp_path):
    pytest.importorskip("torchmetrics")
    args = ["--data", str(sounds), "--label", "several", "--seeds", "1", "--out", str(tmp_path)]
    found = values(classification(args))
    assert found["logmel", "mAP"] > 0.95
    assert found["logmel", "macro AUC"] > 0.95


def test_perceptron_is_determined_by_its_seed():
    x, y = torch.randn(20, 4), F.one_hot(torch.arange(20) % 2, 2).float()
    config = PerceptronConfig(epochs=3)
    first, again, other = (
        fit_perceptron((x, y), (x, y), multi_label=False, seed=seed, config=config)(x) for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_clips_retrieve_clips_with_the_same_label(sounds, tmp_path):
    found = values(audio_retrieval(["--data", str(sounds), "--centre", "--out", str(tmp_path)]))
    assert found["logmel", "R@1"] == 1.0
    assert found["logmel", "mAP"] > 0.95


def test_zero_shot_refuses_towers_of_another_dimension(sounds, vectors, tmp_path):
    args = ["--data", str(sounds), "--encoder", "logmel", "--towers", vectors, "--out", str(tmp_path)]
    with pytest.raises(UserError, match="has 128 dimensions and the text tower 3"):
        zero_shot(args)


def test_templates_are_averaged_into_one_vector_per_label():
    def texts(captions):
        return torch.stack([torch.tensor([float(len(c)), 1.0]) for c in captions])

    one = label_vectors(["dog_bark", "rain"], texts)
    assert torch.allclose(one.norm(dim=1), torch.ones(2))
    expected = F.normalize(torch.tensor([len("This is a sound of dog bark."), 1.0]), dim=0)
    assert torch.allclose(one[0], expected)
    assert label_vectors(["dog_bark"], texts, ("{label}", "a caption of {label}")).shape == (1, 2)
    with pytest.raises(UserError, match="must contain"):
        label_vectors(["rain"], texts, ("nothing",))


def test_low_data_scores_each_share_and_plots_curves(sounds, tmp_path):
    shares = ["--share", "50", "--share", "100"]
    args = ["--data", str(sounds), "--seeds", "2", "--out", str(tmp_path), *shares]
    found = values(low_data(args))
    assert list(found) == [("logmel", "accuracy at 50 %"), ("logmel", "accuracy at 100 %")]
    assert (tmp_path / "low_data.png").stat().st_size > 5000
    with pytest.raises(UserError, match="--share 0"):
        low_data([*args, "--share", "0"])


def test_real_sounds_scores_all_methods_on_folds(sounds, vectors, tmp_path, monkeypatch):
    monkeypatch.setattr("pretrain.probe.fitting.SmallEncoderConfig", lambda: replace(TINY, least_steps=2))
    args = ["--data", str(sounds), "--seeds", "1", "--towers", vectors, "--out", str(tmp_path)]
    args += ["--encoder", "logmel"]
    rows = [arg for row in ("supervised", "captions", "unseen") for arg in ("--row", row)]
    results = real_sounds([*args, "--row", "frozen"]) + real_sounds([*args, "--fold", "3", *rows])
    found = values(results)
    assert found["logmel + perceptron", "3 folds accuracy"] > 0.8
    assert {"supervised", f"captions ({vectors})"} < {r.encoder for r in results}
    assert ("supervised", "3 folds accuracy") not in found  # it was run on one fold
    assert found["logmel + perceptron, unseen", "unseen of 2"] >= 0.0
    assert all(r.trained_on for r in results)


def test_small_encoder_learns_from_labels_and_captions_deterministically(sounds):
    clips = clips_from(sounds)
    paths, targets = [c.path for c in clips], targets_of(clips, list(NAMES))
    slow = replace(TINY, optim=replace(TINY.optim, lr=1e-2))
    for captions in (None, torch.eye(8)[:3]):
        encoder, head = train_on_labels(
            (paths, targets), (paths, targets), seed=0, config=slow, captions=captions
        )
        waves = torch.stack([torch.from_numpy(soundfile.read(path)[0]).float()[None] for path in paths])
        with torch.no_grad():
            right = head(encoder(waves)).argmax(1) == targets.argmax(1)
        assert right.float().mean() > 0.6
    short = replace(TINY, least_steps=3)
    first, again = (
        train_on_labels((paths, targets), (paths, targets), seed=1, config=short)[0] for _ in "ab"
    )
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters()))


def test_unseen_classes_are_scored_by_pairs_and_among_all(sounds, monkeypatch):
    monkeypatch.setattr("pretrain.probe.zero_shot.UNSEEN", PerceptronConfig(epochs=5))
    captions = F.normalize(torch.tensor([[0.0, 1.0], [1.0, 1.0], [1.0, 0.0]]), dim=-1)
    embeddings, names = Embeddings(log_mel_statistics()), ["clicks", "hiss", "tone"]
    scores = unseen_scores(embeddings, clips_from(sounds), names, captions, [0])
    assert set(scores) == {"unseen of 2", "unseen of 3"}
    assert all(0 <= low <= value <= high <= 1 for value, low, high in scores.values())
