"""Training StarGAN: presets, batches, exact resuming, refused mistakes."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from data.audio import save
from data.batches import Address, DataConfig
from engine.checkpoint import load_export, load_weights, newest_checkpoint
from engine.config import from_json, to_json
from engine.user_error import UserError
from w2w.baselines.mel_converter import MelConverterConfig
from w2w.baselines.stargan.labels import LabelGroup, LabelledCrops
from w2w.baselines.stargan.presets import STARGAN, STARGAN_SMALL, StarGANTrainConfig
from w2w.baselines.stargan.spectrogram import SpectrogramConfig
from w2w.baselines.stargan.train import PRESETS, build, completed, train

TINY = PRESETS["tiny"]


@pytest.fixture
def corpus(tmp_path):
    """Three speakers with two recordings each; some genders are unknown; the last one starts with silence."""
    rng, lines = np.random.default_rng(0), ["path,speaker,gender,corpus"]
    for number, gender in enumerate(("F", "M", "")):
        for take in range(2):
            at = np.arange(20_000) / 16_000
            sound = 0.2 * np.sin(2 * np.pi * (150 + 70 * number) * at) + 0.01 * rng.standard_normal(20_000)
            sound[: 9_000 if (number, take) == (2, 1) else 0] = 0.0
            wave = torch.from_numpy(sound).float()[None, None]
            save(tmp_path / f"{number}_{take}.wav", wave, 16_000)
            lines.append(f"{number}_{take}.wav,speaker{number},{gender},corpus{number % 2}")
    (tmp_path / "metadata.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def config(corpus, out, **loop) -> StarGANTrainConfig:
    options = {"trackers": "none", "cpu": True, "sample_every": 0, "steps": 4, **loop}
    return replace(
        TINY, data=replace(TINY.data, path=str(corpus)), loop=replace(TINY.loop, out=out, **options)
    )


def states(run):
    folder = newest_checkpoint(run)
    return {p.stem: load_weights(p) for p in sorted(folder.glob("*.safetensors"))}


@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_json(name):
    assert from_json(StarGANTrainConfig, to_json(PRESETS[name]), name) == PRESETS[name]


def test_published_preset_matches_the_experiment():
    for player in (STARGAN.optim_generator, STARGAN.optim_discriminator):
        assert (player.optimizer, player.lr) == ("rmsprop", 1e-5)
    weights = STARGAN.task
    tens = (weights.gradient_penalty, weights.reconstruction, weights.identity, weights.feature_matching)
    assert tens == (10.0, 10.0, 10.0, 10.0)
    assert (weights.critic_updates, STARGAN.data.batch, STARGAN.data.crop_samples) == (5, 2, 66_304)
    assert (STARGAN.stargan.labels.n_in, STARGAN.stargan.norm, STARGAN.stargan.dilations) == (
        1479,
        "batch",
        (1, 1, 1),
    )


def test_each_remedy_changes_one_setting():
    for ending, base in (("", STARGAN), ("_small", STARGAN_SMALL)):
        receptive, norm, batch = (
            PRESETS[f"{name}{ending}"] for name in ("receptive", "instance_norm", "batch")
        )
        assert replace(receptive, stargan=base.stargan) == base
        assert replace(norm, stargan=base.stargan) == base
        assert batch.stargan == base.stargan
        assert batch.data.batch > base.data.batch
        every = PRESETS[f"remedied{ending}"]
        assert every.stargan.dilations == receptive.stargan.dilations
        assert (every.stargan.norm, every.stargan.norm_of_merge) == ("instance", False)
        assert every.data == batch.data
        own = PRESETS[f"own{ending}"]
        assert (base.task.losses, own.task.losses) == ("experiment", "own")
        assert (base.stargan.spectrogram.maximum > 0, own.stargan.spectrogram.maximum) == (True, 0)


def test_batches_are_at_full_scale_with_matching_labels(corpus):
    done = completed(config(corpus, corpus / "run"))
    labels, shape = done.stargan.labels, done.stargan.spectrogram
    assert [group.names for group in labels.groups] == [
        ("speaker0", "speaker1", "speaker2"),
        ("corpus0", "corpus1"),
        ("F", "M"),
    ]
    crops = LabelledCrops(done.data, shape, labels, n_parts=5)
    batch = crops[Address(0, 3)]
    assert batch.wave.shape == (10, 1, shape.crop_samples)
    assert_close(batch.wave.abs().amax(dim=(1, 2)), torch.ones(10))
    for speaker, home, gender in batch.labels.tolist():
        assert home == speaker % 2
        assert gender == (0, 1, -1)[speaker]
    assert torch.equal(crops[Address(0, 3)].wave, batch.wave)
    assert not torch.equal(crops[Address(0, 4)].wave, batch.wave)


def test_silent_crops_are_redrawn_and_short_recordings_repeated(corpus):
    shape = SpectrogramConfig(n_frames=4, n_bins=4)  # 1792 samples
    done = completed(config(corpus, corpus / "run"))
    data = DataConfig(path=str(corpus), batch=64, crop_samples=shape.crop_samples)
    crops = LabelledCrops(data, shape, done.stargan.labels)
    level = crops[Address(0, 0)].wave.square().mean(dim=(1, 2)).sqrt()
    assert level.min() > 0.05
    long = SpectrogramConfig(n_frames=256, n_bins=4)
    wave = LabelledCrops(data, long, done.stargan.labels)[Address(0, 0)].wave
    assert_close(wave[..., :20_000], wave[..., 20_000:40_000])


def test_label_share_hides_speakers(corpus):
    done = config(corpus, corpus / "run")
    done = completed(replace(done, data=replace(done.data, label_share=0.5)))
    crops = LabelledCrops(done.data, done.stargan.spectrogram, done.stargan.labels)
    assert (crops.labels[:, 0] < 0).sum() == 3
    assert (crops.labels[:, 1] >= 0).all()


def test_run_resumes_exactly_and_exports_both_networks(corpus):
    train(config(corpus, corpus / "straight", steps=3))
    train(config(corpus, corpus / "halves", steps=2))
    train(config(corpus, corpus / "halves", steps=3))
    straight, halves = states(corpus / "straight"), states(corpus / "halves")
    assert set(straight) == {"generator", "discriminator"}
    for name in straight:
        for key, tensor in straight[name].items():
            assert torch.equal(tensor, halves[name][key]), f"{name} {key}"
    stored, weights = load_export(corpus / "straight" / "export", MelConverterConfig)
    assert stored.road.network.labels.first.names == ("speaker0", "speaker1", "speaker2")
    assert {key.split(".")[0] for key in weights} == {"generator", "discriminator"}
    begun = build(replace(completed(config(corpus, corpus / "other")), init=str(corpus / "straight")))
    assert_close(dict(begun.generator.state_dict()), straight["generator"])


def test_rows_without_any_label_are_refused(corpus):
    manifest = corpus / "metadata.csv"
    manifest.write_text(manifest.read_text().replace("0_1.wav,speaker0,F,corpus0", "0_1.wav,,,"))
    with pytest.raises(UserError, match=r"0_1\.wav has no label at all in speaker, corpus, gender"):
        train(config(corpus, corpus / "run"))


def test_labels_outside_their_group_are_refused(corpus):
    run = config(corpus, corpus / "run")
    labels = replace(run.stargan.labels, first=LabelGroup(column="speaker", size=2))
    with pytest.raises(UserError, match=r"2_0\.wav: speaker 'speaker2' is not in its label group"):
        train(replace(run, stargan=replace(run.stargan, labels=labels)))


def test_empty_column_warns(corpus):
    run = config(corpus, corpus / "run")
    labels = replace(run.stargan.labels, second=LabelGroup(column="acent", size=53))
    with pytest.warns(UserWarning, match="no recording of .* has the label acent"):
        done = completed(replace(run, stargan=replace(run.stargan, labels=labels)))
    assert done.stargan.labels.sizes == [3, 53, 2]


def test_data_without_any_labels_are_refused(corpus):
    (corpus / "metadata.csv").write_text("path\n0_0.wav\n1_0.wav\n")
    with pytest.raises(UserError, match="has no labels in speaker, corpus, gender"):
        train(config(corpus, corpus / "run"))


def test_crops_of_the_wrong_size_and_single_clips_are_refused():
    with pytest.raises(UserError, match="set 16000 and 66304"):
        replace(STARGAN, data=DataConfig(batch=2, crop_samples=32_000))
    with pytest.raises(UserError, match="target labels come from other clips"):
        replace(TINY, data=replace(TINY.data, batch=1))
