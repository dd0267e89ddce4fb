"""Fine-tuning by CTC: labels may be missing, parts frozen, a batch can be learned, resuming is exact."""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import soundfile
import torch

from data.batches import Address
from data.manifest import Row, write_manifest
from engine.checkpoint import export, load_weights
from engine.loop import LoopConfig
from engine.optim import OptimConfig
from engine.user_error import UserError
from pretrain.ctc import main
from pretrain.ctc_score import main as score_main
from pretrain.speech.encoder import SpeechEncoder
from pretrain.speech.finetune import FineTune, FineTuneConfig, FreezeConfig, HidingConfig, change_speed, hide
from pretrain.speech.finetune_run import TINY, finetune
from pretrain.speech.finetune_score import error_rates, total
from pretrain.speech.finetuned import SpeechRecogniser, SpeechRecogniserConfig, load_speech_recogniser
from pretrain.speech.labelled import LabelledConfig, LabelledSpeech, subset
from pretrain.speech.units import Characters, Units

CALM = HidingConfig(time_share=0.0, channel_share=0.0, speed=0.0)
FAST = OptimConfig(lr=5e-3)
LETTERS = Units(Characters())
PITCH = {"s": 5_000.0, "e": 2_500.0, "a": 900.0, "m": 300.0, " ": 1_500.0}


def spoken(text: str) -> torch.Tensor:
    """Each letter a tone of its own between pauses."""
    time = torch.arange(1_600) / 16_000
    parts = [torch.cat([0.3 * torch.sin(6.2832 * PITCH[c] * time), torch.zeros(800)]) for c in text]
    return torch.cat(parts) + 0.001 * torch.randn(2_400 * len(parts))


@pytest.fixture
def manifest(tmp_path):
    """Tones for letters: six utterances with a text, two without, two of validation."""
    texts = ["same", "mas se", "esa", "am es", "sea", "mesa", "sam", "ame", "see ma", "mess"]
    rows = []
    for i, text in enumerate(texts):
        soundfile.write(tmp_path / f"{i}.wav", spoken(text).numpy(), 16_000)
        known = None if i in (6, 7) else text.upper()
        rows.append(Row(path=tmp_path / f"{i}.wav", text=known, split="validation" if i > 7 else "train"))
    write_manifest(tmp_path / "manifest.csv", rows)
    return tmp_path / "manifest.csv"


def tiny(manifest: Path, **changes) -> FineTuneConfig:
    data = LabelledConfig(paths=(str(manifest),), batch_seconds=2.0, unlabelled_seconds=1.0)
    config = FineTuneConfig(
        encoder=TINY, data=data, hiding=CALM, dropout=0.0, trunk=FAST, head=FAST, ema=0.9,
        freeze=FreezeConfig(convolutions=False), pseudo_from=10_000,
    )  # fmt: skip
    return replace(config, **changes)


def speech_of(config: FineTuneConfig) -> LabelledSpeech:
    return LabelledSpeech(config.data, LETTERS, progress=False)


def gradients(task: FineTune) -> dict[str, torch.Tensor | None]:
    """Spy on what the players see by letting them take no step."""
    seen: dict[str, torch.Tensor | None] = {}
    names = {id(p): n for n, p in task.recogniser.named_parameters()}
    for player in task.players.values():

        def spy(gradients, player=player):
            seen.update({names[id(p)]: g for p, g in zip(player.parameters, gradients, strict=True)})

        player._apply = spy
    return seen


def test_one_batch_can_be_learned(manifest):
    config = tiny(manifest)
    task, speech = FineTune(config), speech_of(config)
    batch = speech.collate(speech.order)
    for step in range(130):
        scalars = task.update(batch, step)
    assert scalars["loss/head/ctc"] < 0.1
    assert total(error_rates(task.recogniser, speech).values()).rate < 0.05
    errors = total(error_rates(task.average, speech).values())
    assert errors.words == 8
    assert errors.rate < 0.1


def test_unlabelled_rows_give_the_ctc_term_nothing(manifest):
    config = tiny(manifest, pseudo_weight=0.0, pseudo_from=0)
    task, speech = FineTune(config), speech_of(config)
    both = speech.collate([*speech.order[:2], *speech.others])
    assert both.labelled.tolist() == [True, True, False, False]
    seen = gradients(task)
    with_others = task.update(both, 0)["loss/head/ctc"]
    theirs = dict(seen)
    alone = task.update(speech.collate(speech.order[:2]), 0)["loss/head/ctc"]
    torch.testing.assert_close(with_others, alone)
    for name, gradient in seen.items():
        if gradient is not None:
            torch.testing.assert_close(theirs[name], gradient, atol=1e-6, rtol=1e-4)


def test_a_batch_without_labels_moves_nothing_but_by_pseudo_labels(manifest):
    config = tiny(manifest, pseudo_from=0)
    task, speech = FineTune(config), speech_of(config)
    for step in range(80):  # until it writes something
        task.update(speech.collate(speech.order), step)
    others = speech.collate(speech.others)
    tokens, n_tokens = task.targets(others)
    assert n_tokens.min() > 0
    assert not others.n_tokens.any()
    written = [task.average.units.text(row[:n].tolist()) for row, n in zip(tokens, n_tokens)]
    assert written == [task.average.transcribe(speech.collate([i]).wave)[0] for i in speech.others]
    seen = gradients(task)
    scalars = task.update(others, 61)
    assert scalars["loss/head/ctc"] == 0
    assert scalars["loss/head/pseudo_ctc"] > 0
    assert any(g is not None and g.abs().sum() > 0 for g in seen.values())
    task.config = replace(task.config, pseudo_weight=0.0)
    seen.clear()
    task.update(others, 62)
    assert all(g is None or not g.any() for g in seen.values())


def test_what_is_frozen_stays(manifest):
    def moved(freeze: FreezeConfig, step: int) -> set[str]:
        task = FineTune(tiny(manifest, freeze=freeze))
        before = {n: p.clone() for n, p in task.recogniser.named_parameters()}
        speech = speech_of(task.config)
        task.update(speech.collate(speech.order), step)
        after = task.recogniser.named_parameters()
        return {n.removeprefix("encoder.trunk.").split(".")[0] for n, p in after if not before[n].equal(p)}

    everything = {"head", "feature_extractor", "feature_projection", "encoder"}
    assert moved(FreezeConfig(convolutions=False), 0) == everything
    assert moved(FreezeConfig(convolutions=True), 0) == everything - {"feature_extractor"}
    assert moved(FreezeConfig(trunk_steps=5), 4) == {"head"}
    assert moved(FreezeConfig(trunk_steps=5), 5) == everything - {"feature_extractor"}
    assert moved(FreezeConfig(trunk=True), 9) == {"head"}


def test_frozen_encoders_learn_an_average_of_their_layers(manifest):
    task = FineTune(tiny(manifest, freeze=FreezeConfig(trunk=True), mix_layers=True))
    speech = speech_of(task.config)
    task.update(speech.collate(speech.order), 0)
    assert task.recogniser.mixture is not None
    assert task.recogniser.mixture.any()


def test_hidden_frames_are_the_vector_of_pretraining():
    encoder = SpeechEncoder(TINY)
    frames = torch.randn(3, 50, TINY.hidden)
    hidden = hide(frames, encoder, HidingConfig(time_share=0.1, time_frames=4, channel_share=0.0))
    changed = (hidden != frames).any(-1)
    assert changed.any()
    assert not changed.all()
    assert (hidden[changed] == encoder.trunk.masked_spec_embed).all()
    silent = hide(frames, encoder, HidingConfig(time_share=0.0, channel_share=0.1, channel_width=3))
    assert ((silent == 0).all(1) | (silent == frames).all(1)).all()
    assert hide(frames, encoder, CALM).equal(frames)


def test_speed_keeps_the_share_that_is_speech():
    wave, samples = torch.randn(2, 1, 16_000), torch.tensor([16_000, 8_000])
    same, lengths = change_speed(wave, samples, 0.0)
    assert same.equal(wave)
    assert lengths.equal(samples)
    new, lengths = change_speed(wave, samples, 0.2)
    assert lengths[0] == new.shape[-1] != 16_000
    assert abs(lengths[0] / 2 - lengths[1]) <= 1


def test_resuming_is_exact(manifest, tmp_path):
    def run(name: str, *steps: int) -> dict[str, torch.Tensor]:
        for upto in steps:
            loop = LoopConfig(out=tmp_path / name, steps=upto, save_every=2, sample_every=0, trackers="none")
            changes = {"hiding": HidingConfig(), "dropout": 0.1, "pseudo_from": 1}
            finetune(tiny(manifest, loop=loop, freeze=FreezeConfig(trunk_steps=1), **changes))
        return load_weights(tmp_path / name / "export/model.safetensors")

    straight, parts = run("a", 4), run("b", 2, 4)
    assert all(straight[name].equal(parts[name]) for name in straight)


def test_the_same_labels_are_chosen_and_smaller_shares_lie_within(manifest):
    assert subset(range(100), 0.1, 3) == subset(range(100), 0.1, 3) != subset(range(100), 0.1, 4)
    assert set(subset(range(100), 0.1, 3)) < set(subset(range(100), 0.5, 3))
    assert subset(range(3), 0.01, 0) != []
    half = tiny(manifest, data=replace(tiny(manifest).data, share=0.5))
    speech = speech_of(half)
    assert (len(speech.order), len(speech.others)) == (3, 5)
    dropped = LabelledSpeech(replace(half.data, unlabelled_seconds=0.0), LETTERS, progress=False)
    assert (len(dropped.order), len(dropped.others)) == (3, 0)
    kept = [{str(s.rows[i].path) for i in s.order} for s in (speech, dropped)]
    assert kept[0] == kept[1]


def test_batches_follow_from_their_address(manifest):
    speech = speech_of(tiny(manifest))
    one, same, other = (speech[Address(0, step, 0, 0)] for step in (3, 3, 4))
    assert all(a.equal(b) for a, b in zip(one, same))
    assert one.wave.shape != other.wave.shape or not one.wave.equal(other.wave)
    assert one.labelled.any()
    assert not one.labelled.all()


def test_padding_does_not_change_what_is_heard(manifest):
    recogniser = SpeechRecogniser(SpeechRecogniserConfig(encoder=TINY)).eval()
    speech = speech_of(tiny(manifest))
    batch = speech.collate(speech.order)
    together = recogniser(batch.wave, batch.samples).log_probs
    for row, n in enumerate(batch.samples):
        alone = recogniser(batch.wave[row : row + 1, :, :n]).log_probs[0]
        torch.testing.assert_close(together[row, : len(alone)], alone, atol=1e-4, rtol=1e-4)


def test_a_recogniser_listens_as_the_small_one_does():
    recogniser = SpeechRecogniser(SpeechRecogniserConfig(encoder=TINY)).eval().requires_grad_(False)
    wave = torch.randn(2, 1, 4_800, requires_grad=True)
    heard = recogniser(wave)
    assert [f.shape for f in heard.features] == [(2, TINY.hidden, heard.log_probs.shape[1])] * TINY.layers
    heard.log_probs.sum().backward()
    assert wave.grad is not None
    assert wave.grad.any()


def test_init_brings_the_weights_of_one_architecture(manifest, tmp_path):
    encoder = SpeechEncoder(TINY)
    export(tmp_path / "encoder", TINY, encoder)
    config = FineTuneConfig(init=str(tmp_path / "encoder"), encoder=replace(TINY, ffn=64))
    with pytest.raises(UserError, match="has ffn 32, not 64"):
        FineTune(config)
    task = FineTune(replace(config, encoder=None, dropout=0.3))
    assert task.config.encoder is not None
    assert task.config.encoder.dropout == 0.3
    theirs = task.recogniser.encoder.state_dict()
    assert all(theirs[name].equal(tensor) for name, tensor in encoder.state_dict().items())


def test_speech_without_any_text_is_refused(tmp_path):
    soundfile.write(tmp_path / "a.wav", spoken("s").numpy(), 16_000)
    write_manifest(tmp_path / "manifest.csv", [Row(path=tmp_path / "a.wav", text="即便是")])
    with pytest.raises(UserError, match="no row of split 'train' has a text in characters"):
        LabelledSpeech(LabelledConfig(paths=(str(tmp_path),)), LETTERS, progress=False)
    with pytest.raises(UserError, match=r"--data\.paths"):
        LabelledSpeech(LabelledConfig(), LETTERS, progress=False)
    with pytest.raises(UserError, match="no row of split 'test'"):
        LabelledSpeech(LabelledConfig(paths=(str(tmp_path),)), LETTERS, split="test", progress=False)
    with pytest.raises(UserError, match=r"data\.share=0"):
        LabelledConfig(share=0.0)


def test_the_documented_commands_run(manifest, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    export(tmp_path / "encoder", TINY, SpeechEncoder(TINY))

    def told(command: Callable[[], None], *words: object) -> str:
        monkeypatch.setattr(sys, "argv", ["command", *map(str, words)])
        command()
        return capsys.readouterr().out

    tune = ["--preset", "characters_tiny", "--init", "encoder", "--loop.cpu", "--loop.out", "run"]
    assert "6 utterances with labels" in told(main, *tune, "--data.paths", manifest)
    assert "exported" in told(main, "--config", "run/config.json")  # which goes on where it ended
    recogniser = load_speech_recogniser(tmp_path / "run/export")
    assert isinstance(recogniser.transcribe(spoken("sea")[None, None])[0], str)
    score = ["--recogniser", "run/export", "--data.paths", manifest]
    assert "character error rate" in told(score_main, *score)
    beam = ["--decode.beam", "4", "--decode.lm-paths", manifest]
    assert "word error rate" in told(score_main, *score, *beam)
    with pytest.raises(SystemExit):
        told(score_main, *score, "--decode.lm-paths", manifest)
    assert "--decode.beam" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--data.paths nowhere", "nowhere"),
        ("--init nowhere/at/all", "nowhere/at/all"),
        ("--data.share 2", "share"),
        ("--units.alphabet aab", "alphabet"),
    ],
)
def test_mistakes_are_told_shortly(words, told, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["ctc.py", "--preset", "characters_tiny", *words.split(), "--loop.cpu"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert told in error
    assert error.count("\n") <= 1
