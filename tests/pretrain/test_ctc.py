"""CTC training: missing labels, frozen parts, learning a batch, exact resuming, the commands."""

import copy
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from tone_speech import spoken, write_corpus
from torch.testing import assert_close

from engine.checkpoint import export, load_weights
from engine.loop import LoopConfig
from engine.optim import OptimConfig
from engine.user_error import UserError
from pretrain.ctc import main, train
from pretrain.ctc_score import error_rates, total
from pretrain.ctc_score import main as score_main
from pretrain.recogniser import RecogniserConfig, load_recogniser
from pretrain.spectral_augment import AugmentConfig, FrameAugmentConfig
from pretrain.speech.encoder import TINY, SpeechEncoder
from pretrain.speech.labelled import LabelledConfig, LabelledSpeech
from pretrain.speech.loading import SpeechRecogniserConfig
from pretrain.speech.recognition import Recognition, ctc_losses
from pretrain.speech.recognition_config import PRESETS, CTCConfig, FreezeConfig, WeightsConfig
from pretrain.units import RecogniserOutput

UNCHANGED_MELS = AugmentConfig(
    warp=0.0, speed=0.0, noise_share=0.0, equaliser=0.0, time_masks=0, band_masks=0
)
UNCHANGED_FRAMES = FrameAugmentConfig(time_share=0.0, channel_share=0.0, speed=0.0)
FAST = OptimConfig(lr=5e-3)


@pytest.fixture
def manifest(tmp_path) -> Path:
    return write_corpus(tmp_path)


@pytest.fixture(scope="module")
def learned(tmp_path_factory) -> tuple[Recognition, LabelledSpeech, dict]:
    """A task on an encoder that has learned its one batch."""
    torch.manual_seed(0)
    return overfitted(on_encoder(write_corpus(tmp_path_factory.mktemp("speech"))), 180)


def on_encoder(manifest: Path, **changes) -> CTCConfig:
    data = LabelledConfig(paths=(str(manifest),), batch_seconds=2.0, unlabelled_seconds=1.0)
    config = CTCConfig(
        model=SpeechRecogniserConfig(encoder=TINY, head_dropout=0.0), data=data, augment=UNCHANGED_FRAMES,
        optim=FAST, head=FAST, ema=0.9, freeze=FreezeConfig(convolutions=False), pseudo_from=10_000,
    )  # fmt: skip
    return replace(config, **changes)


def small(manifest: Path, **changes) -> CTCConfig:
    config = CTCConfig(
        model=RecogniserConfig(width=24, n_blocks=2, kernel=5, dropout=0.0),
        data=LabelledConfig(paths=(str(manifest),), batch_seconds=2.0), augment=UNCHANGED_MELS,
        weights=WeightsConfig(agreement=0.2, features=0.5), optim=OptimConfig(lr=1e-2), ema=0.9,
        agree_from=10_000,
    )  # fmt: skip
    return replace(config, **changes)


def task_and_speech(config: CTCConfig) -> tuple[Recognition, LabelledSpeech]:
    task = Recognition(config)
    return task, LabelledSpeech(config.data, task.average.units, progress=False)


def gradients(task: Recognition) -> dict[str, torch.Tensor | None]:
    """Record the gradients that players receive, without letting them take a step."""
    seen: dict[str, torch.Tensor | None] = {}
    names = {id(p): n for n, p in task.recogniser.named_parameters()}
    for player in task.players.values():

        def spy(gradients, player=player):
            seen.update({names[id(p)]: g for p, g in zip(player.parameters, gradients, strict=True)})

        player._apply = spy
    return seen


def overfitted(config: CTCConfig, steps: int) -> tuple[Recognition, LabelledSpeech, dict]:
    task, speech = task_and_speech(config)
    batch, scalars = speech.collate(speech.order), {}
    for step in range(steps):
        scalars = task.update(batch, step)
    return task, speech, scalars


@pytest.mark.parametrize("kind", ["encoder", "small"])
def test_one_batch_can_be_learned(manifest, kind, learned):
    task, speech, scalars = learned if kind == "encoder" else overfitted(small(manifest), 100)
    assert scalars["loss/recogniser/ctc"] < 0.1
    assert total(error_rates(task.recogniser, speech).values()).rate < 0.05
    errors = total(error_rates(task.average, speech).values())
    assert errors.words == (8 if kind == "encoder" else 0)
    assert errors.rate < 0.1


def test_unlabelled_rows_do_not_affect_the_ctc_term(manifest):
    weights = WeightsConfig(pseudo_ctc=0.0)
    task, speech = task_and_speech(on_encoder(manifest, weights=weights, pseudo_from=0))
    both = speech.collate([*speech.order[:2], *speech.others])
    assert both.labelled.tolist() == [True, True, False, False]
    seen = gradients(task)
    with_others = task.update(both, 0)["loss/recogniser/ctc"]
    theirs = dict(seen)
    alone = task.update(speech.collate(speech.order[:2]), 0)["loss/recogniser/ctc"]
    assert_close(with_others, alone)
    for name, gradient in seen.items():
        if gradient is not None:
            assert_close(theirs[name], gradient, atol=1e-6, rtol=1e-4)


def test_unlabelled_batch_trains_by_pseudo_labels_only(learned):
    task, speech, _ = copy.deepcopy(learned)
    task.config = replace(task.config, pseudo_from=0)
    others = speech.collate(speech.others)
    tokens, n_tokens = task.targets(others)
    assert n_tokens.min() > 0
    assert not others.n_tokens.any()
    written = [task.average.units.text(row[:n].tolist()) for row, n in zip(tokens, n_tokens)]
    assert written == [task.average.transcribe(speech.collate([i]).wave)[0] for i in speech.others]
    seen = gradients(task)
    scalars = task.update(others, 61)
    assert scalars["loss/recogniser/ctc"] == 0
    assert scalars["loss/recogniser/pseudo_ctc"] > 0
    assert any(g is not None and g.abs().sum() > 0 for g in seen.values())
    task.config = replace(task.config, weights=WeightsConfig(pseudo_ctc=0.0))
    seen.clear()
    task.update(others, 62)
    assert all(g is None or not g.any() for g in seen.values())


@pytest.mark.parametrize("make", [small, on_encoder])
def test_consistency_losses_are_zero_only_without_augmentation(manifest, make):
    weights = WeightsConfig(agreement=0.2, features=0.5)
    task, speech = task_and_speech(make(manifest, agree_from=1, weights=weights))
    batch = speech.collate(speech.order[:3])
    for step in range(2):
        same = task.update(batch, step)
        assert abs(same["loss/recogniser/agreement"]) < 1e-5
        assert abs(same["loss/recogniser/features"]) < 1e-5
    augment = AugmentConfig() if make is small else FrameAugmentConfig(time_share=0.2)
    task.config = replace(task.config, augment=augment)
    different = task.update(batch, 2)
    assert different["loss/recogniser/agreement"] > 0
    assert different["loss/recogniser/features"] > 0
    assert all(value.isfinite() for value in different.values())


def test_frozen_parts_do_not_change(manifest):
    def moved(freeze: FreezeConfig, step: int) -> set[str]:
        task, speech = task_and_speech(on_encoder(manifest, freeze=freeze))
        before = {n: p.clone() for n, p in task.recogniser.named_parameters()}
        task.update(speech.collate(speech.order), step)
        after = task.recogniser.named_parameters()
        return {n.removeprefix("encoder.trunk.").split(".")[0] for n, p in after if not before[n].equal(p)}

    everything = {"head", "feature_extractor", "feature_projection", "encoder"}
    assert moved(FreezeConfig(convolutions=False), 0) == everything
    assert moved(FreezeConfig(convolutions=True), 0) == everything - {"feature_extractor"}
    assert moved(FreezeConfig(trunk_steps=5), 4) == {"head"}
    assert moved(FreezeConfig(trunk_steps=5), 5) == everything - {"feature_extractor"}
    assert moved(FreezeConfig(trunk=True), 9) == {"head"}


def test_frozen_encoder_learns_an_average_of_its_layers(manifest):
    model = SpeechRecogniserConfig(encoder=TINY, mix_layers=True)
    task, speech = task_and_speech(on_encoder(manifest, model=model, freeze=FreezeConfig(trunk=True)))
    task.update(speech.collate(speech.order), 0)
    assert task.recogniser.mixture is not None
    assert task.recogniser.mixture.any()


def test_loss_equals_torch_on_full_lengths():
    log_probs = torch.randn(2, 12, 5).log_softmax(-1)
    tokens, n_tokens = torch.tensor([[1, 2, 3], [4, 4, 0]]), torch.tensor([3, 2])
    ours = ctc_losses(RecogniserOutput([], log_probs, torch.ones(2, 12, dtype=torch.bool)), tokens, n_tokens)
    lengths = torch.tensor([12, 12])
    assert_close(ours, F.ctc_loss(log_probs.transpose(0, 1), tokens, lengths, n_tokens, reduction="none"))


@pytest.mark.parametrize("make", [small, on_encoder])
def test_resume_is_exact(manifest, tmp_path, make):
    def run(name: str, *steps: int) -> dict[str, torch.Tensor]:
        for upto in steps:
            loop = LoopConfig(out=tmp_path / name, steps=upto, save_every=2, sample_every=0, trackers="none")
            augment = FrameAugmentConfig() if make is on_encoder else AugmentConfig()
            freeze = FreezeConfig(trunk_steps=1)
            train(make(manifest, loop=loop, augment=augment, freeze=freeze, pseudo_from=1, agree_from=1))
        return load_weights(tmp_path / name / "export/model.safetensors")

    straight, parts = run("a", 4), run("b", 2, 4)
    assert all(straight[name].equal(parts[name]) for name in straight)


def test_init_loads_weights_and_refuses_other_sizes(manifest, tmp_path):
    encoder = SpeechEncoder(TINY)
    export(tmp_path / "encoder", TINY, encoder)
    other = SpeechRecogniserConfig(encoder=replace(TINY, ffn=48))
    config = CTCConfig(init=str(tmp_path / "encoder"), model=other, augment=FrameAugmentConfig())
    with pytest.raises(UserError, match="has ffn 64, not 48"):
        Recognition(config)
    model = replace(PRESETS["characters"].model, head_dropout=0.3)
    task = Recognition(replace(config, model=model))
    assert task.config.model.encoder == replace(TINY, dropout=0.3, attention_dropout=0.3, feature_dropout=0.3)
    theirs = task.recogniser.encoder.state_dict()
    assert all(theirs[name].equal(tensor) for name, tensor in encoder.state_dict().items())


def test_the_documented_commands_run(manifest, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    export(tmp_path / "encoder", TINY, SpeechEncoder(TINY))

    def printed(command: Callable[[], None], *args: object) -> str:
        monkeypatch.setattr(sys, "argv", ["command", *map(str, args)])
        command()
        return capsys.readouterr().out

    here = ["--data.paths", manifest, "--loop.cpu", "--loop.trackers", "none", "--loop.out"]
    tune = ["--preset", "characters_tiny", "--init", "encoder", *here, "run"]
    assert "6 utterances with labels" in printed(main, *tune)
    assert "exported" in printed(main, "--config", "run/config.json")  # a finished run
    score = ["--recogniser", "run/export", "--data.paths", manifest]
    assert "character error rate" in printed(score_main, *score)
    assert "word error rate" in printed(score_main, *score, "--decode.beam", "4")
    (tmp_path / "1.wav").write_bytes(b"no sound")
    with pytest.raises(SystemExit) as end:
        printed(main, "--preset", "tiny", *here, "small")
    assert end.value.code == 1
    assert "1.wav is not audio" in capsys.readouterr().err
    assert isinstance(load_recogniser(tmp_path / "small/export").transcribe(spoken("se")[None, None])[0], str)
    assert "phone error rate" in printed(score_main, "--recogniser", "small/export", "--data.paths", manifest)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ("--preset tiny", "--data.paths"),
        ("--preset huge", "huge"),
        ("--optim.rate 3", "--optim.rate"),
        ("--data.paths nowhere", "nowhere"),
        ("--preset characters_tiny --init nowhere/at/all", "nowhere/at/all"),
        ("--init nowhere", "--preset characters"),
        ("--model.kind SpeechRecogniserConfig", "--augment.kind FrameAugmentConfig"),
        ("--data.share 2", "share"),
        ("--preset characters_tiny --model.units.alphabet aab", "alphabet"),
    ],
)
def test_invalid_options_give_one_sentence(options, complaint, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["ctc.py", *options.split(), "--loop.cpu"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert complaint in error
    assert error.count("\n") <= 1
    assert not list(tmp_path.iterdir())
