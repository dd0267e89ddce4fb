"""Captioning of sounds: vocabulary, decoder, beam search, scores, and error messages."""

import csv
import math
import socket
from dataclasses import replace

import numpy as np
import pytest
import torch

from data.audio import save
from data.synthetic.world import World
from engine.user_error import UserError
from pretrain.probe.captioning import attributes_named, captioned_from, captioning, features_of
from pretrain.probe.captioning_decoder import (
    CaptionDecoder,
    DecoderConfig,
    Features,
    caption_loss,
    fit_decoder,
)
from pretrain.probe.captioning_scores import (
    END,
    PAD,
    START,
    Vocabulary,
    caption_scores,
    commonest_caption,
    words_of,
)
from pretrain.probe.embedders import log_mel_statistics, open_embedder
from pretrain.probe.harness import Embeddings

TINY = DecoderConfig(
    width=32, heads=2, hidden=32, batch=8, epochs=150, lr=3e-3, smoothing=0.0, dropout=0.0, beam=2, longest=8
)


def random_features(n_clips=6, dim=4, n_frames=3):
    frames = torch.randn(n_clips, n_frames, dim)
    valid = torch.arange(n_frames) < torch.randint(1, n_frames + 1, (n_clips, 1))
    return Features(torch.randn(n_clips, dim), frames, valid)


def test_captions_are_split_into_words_without_punctuation_or_capitals():
    words = "a dog's bark far off it's 2 o'clock"
    assert words_of("A dog's bark, far-off; it’s 2 o'clock!") == words.split()


def test_vocabulary_restores_captions_and_marks_rare_words_as_unknown():
    vocabulary = Vocabulary(["a dog barks", "a dog", "a cat"], least_count=2)
    tokens = vocabulary.tokens(["a dog", "A cat."])
    assert vocabulary.caption(tokens[0].tolist()) == "a dog"
    assert vocabulary.caption(tokens[1].tolist()) == "a <unknown>"
    assert tokens[0, 0] == START
    assert vocabulary.tokens(["a dog", "a"])[1].tolist()[-2:] == [END, PAD]
    with pytest.raises(UserError, match="no words"):
        Vocabulary(["..."])


def test_logits_do_not_depend_on_later_words_or_padded_frames():
    features = random_features()
    decoder = CaptionDecoder(TINY, features, 9).eval()
    tokens = torch.randint(3, 9, (6, 5))
    logits = decoder(features, tokens)
    other = tokens.clone()
    other[:, 3:] = 4
    torch.testing.assert_close(decoder(features, other)[:, :3], logits[:, :3])
    noisy = features._replace(frames=torch.where(features.valid[..., None], features.frames, 99.0))
    torch.testing.assert_close(decoder(noisy, tokens), logits)


def test_loss_with_zero_weights_is_that_of_a_uniform_distribution():
    features = random_features()
    decoder = CaptionDecoder(TINY, features, 9).eval()
    torch.nn.init.zeros_(decoder.words.weight)
    tokens = torch.tensor([[START, 5, 6, END], [START, 7, END, PAD]])
    loss = caption_loss(decoder, features.rows(torch.arange(2)), tokens)
    assert loss.item() == pytest.approx(math.log(9))


def test_captions_are_learned_and_training_is_deterministic():
    features = random_features(8)
    captions = [
        (f"{'a' if n % 2 else 'the'} {word}",)
        for n, word in enumerate(["dog", "cat", "bird", "rain", "wind", "sea", "fire", "bell"])
    ]
    vocabulary = Vocabulary([one for (one,) in captions])
    data = (features, captions)
    decoder = fit_decoder(data, data, vocabulary, seed=0, config=TINY)
    assert decoder.captions(features, vocabulary) == [one for (one,) in captions]
    short = replace(TINY, epochs=2)
    first, second = (fit_decoder(data, data, vocabulary, seed=0, config=short) for _ in "ab")
    for one, other in zip(first.parameters(), second.parameters()):
        assert torch.equal(one, other)


def test_beam_search_finds_a_likelier_caption_than_greedy_decoding():
    """The likelier first word (.6 against .4) is followed by two equally likely words, the other by one."""
    features = random_features(1)
    vocabulary = Vocabulary(["b c d e"])
    b, c, d, e = (vocabulary.numbers[word] for word in "bcde")
    follows = {START: {b: 0.6, c: 0.4}, b: {d: 0.5, e: 0.5}, c: {d: 1.0}, d: {END: 1.0}, e: {END: 1.0}}

    def decode(memory, tokens):
        logits = torch.full((*tokens.shape, len(vocabulary)), -30.0)
        for row, sentence in enumerate(tokens.tolist()):
            for number, chance in follows.get(sentence[-1], {}).items():
                logits[row, -1, number] = math.log(chance)
        return logits

    for beam, expected in ((1, {"b d", "b e"}), (3, {"c d"})):
        config = DecoderConfig(width=16, heads=2, hidden=16, beam=beam, longest=4)
        decoder = CaptionDecoder(config, features, len(vocabulary))
        decoder.decode = decode
        assert set(decoder.captions(features, vocabulary)) <= expected


def test_scores_are_one_for_a_reference_and_zero_without_common_words(monkeypatch):
    pytest.importorskip("aac_metrics")

    def refuse(*_, **__):
        raise AssertionError("scoring must not use the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    truth = [["A dog barks at a cat.", "barking"], ["Rain falls on the roof!", "it rains"]]
    groups = ["a", "b"]
    right = caption_scores([["a dog barks at a cat", "rain falls on the roof"]], truth, groups)
    assert (right["BLEU-4"][0], right["ROUGE-L"][0]) == pytest.approx((1.0, 1.0), abs=1e-6)
    wrong = caption_scores([["x y z w v"] * 2], truth, groups)
    assert max(value for value, _, _ in wrong.values()) < 1e-3
    assert set(right) == {"BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L", "CIDEr-D"}
    # Half of the words, at the same length: their share is BLEU-1.
    half = caption_scores([["a dog barks x y z", "rain falls on q z"]], [[t[0]] for t in truth], groups)
    assert half["BLEU-1"][0] == pytest.approx(6 / 11, abs=1e-6)
    assert half["BLEU-1"][1] <= half["BLEU-1"][0] <= half["BLEU-1"][2]


def test_commonest_caption_is_the_most_frequent_one():
    assert commonest_caption([("A dog.", "rain"), ("a dog",), ("a cat sings",)]) == "a dog"
    assert commonest_caption([("a dog barks",), ("a cat sings",), ("a dog runs far",)]) in (
        "a dog barks",
        "a dog runs far",
    )


def test_attributes_are_recognised_in_captions_unless_ambiguous():
    caption = "a lined background with three tiny blue crosses"
    shape, colour, size, count, background = attributes_named(caption)
    assert (shape, colour, size, count, background) == (5, 4, 0, 2, 1)
    assert attributes_named("middle-sized circles and stars")[:3] == [None, None, 1]
    world = World(0, "held_out")
    for truth, one in zip(world.values(world.indices), world.captions(world.indices)):
        assert attributes_named(one) == truth.tolist()


def write_clips(folder, splits=("train", "train", "test", "test")):
    lines = ["file_name,caption_1,caption_2,split"]
    for number, split in enumerate(splits * 3):
        pitch = (300, 2_000)[number % 2]
        seconds = 0.3 + 0.1 * (number % 3)
        wave = torch.sin(torch.arange(round(16_000 * seconds)) * (2 * np.pi * pitch / 16_000))
        save(folder / f"{number}.wav", wave[None, None], 16_000)
        word = ("low", "high")[number % 2]
        lines.append(f"{number}.wav,a {word} tone,one {word} beep,{split}")
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n")
    return folder


def test_frames_of_long_clips_are_concatenated_over_crops(tmp_path):
    write_clips(tmp_path)
    clips = captioned_from(str(tmp_path))
    whole, cropped = (features_of(Embeddings(log_mel_statistics(), crop_s=s), clips) for s in (1.0, 0.2))
    assert whole.clip.shape == cropped.clip.shape == (len(clips), 128)
    # Each crop adds a frame at its end.
    lengths = torch.tensor([round(16_000 * (0.3 + 0.1 * (n % 3))) for n in range(12)])
    assert (whole.valid.sum(1) - lengths // 320).abs().max() <= 2
    assert (cropped.valid.sum(1) - whole.valid.sum(1)).abs().max() <= 3
    random = Embeddings(open_embedder("random"))
    assert features_of(random, clips[:2]).frames.shape[-1] == 512


def test_command_trains_scores_and_writes_results(tmp_path, capsys):
    pytest.importorskip("aac_metrics")
    write_clips(tmp_path / "clips")
    with (tmp_path / "clips/metadata.csv").open("a") as table:
        table.write("bad.wav,a bad tone,,train\n")
    (tmp_path / "clips/bad.wav").write_bytes(b"no sound")
    options = f"--data {tmp_path / 'clips'} --out {tmp_path / 'out'} --no-random --epochs 120".split()
    with pytest.raises(SystemExit) as end:
        captioning([*options, "--encoder", "logmel"])
    assert end.value.code == 1
    printed = capsys.readouterr()
    assert "commonest" in printed.out
    assert "bad.wav is not audio" in printed.err
    with (tmp_path / "out" / "results.csv").open() as table:
        found = {(row["encoder"], row["metric"]): float(row["value"]) for row in csv.DictReader(table)}
    assert found["logmel", "CIDEr-D"] > found["commonest", "CIDEr-D"]


def test_data_without_captions_or_splits_is_refused(tmp_path):
    (tmp_path / "none.csv").write_text("path,label\na.wav,dog\n")
    with pytest.raises(UserError, match="has no captions"):
        captioned_from(str(tmp_path / "none.csv"))
    (tmp_path / "some.csv").write_text("path,caption,split\na.wav,a dog,train\n")
    with pytest.raises(UserError, match="no captioned clip of split 'validation'"):
        captioned_from(str(tmp_path / "some.csv"))
    (tmp_path / "both.csv").write_text("path,caption,split\na.wav,a dog,train\na.wav,a dog,test\n")
    with pytest.raises(UserError, match=r"a\.wav is in both splits, train and test"):
        captioned_from(str(tmp_path / "both.csv"))
    with pytest.raises(UserError, match="--epochs=0 must be at least 1"):
        captioning(["--data", "world", "--epochs", "0"])
