"""The tie of voices to words: refusals, repeatability, what the maps learn."""

import math
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from data.audio import load, save
from data.manifest import Row, write_manifest
from data.voice_captions import fit_scale
from data.voice_meter import VoiceMeasures
from engine.user_error import UserError
from pretrain.clip.small_clip import SmallCLIP, SmallCLIPConfig, save_small_clip, train_tokeniser
from pretrain.clip.towers import TowersConfig, open_towers
from w2w import Converter
from w2w.convert import main as convert
from w2w.networks.network import ConverterNetwork
from w2w.tie import main as tie_command
from w2w.tie import tie_to
from w2w.words.face_clip import portraits
from w2w.words.fitting import FittingConfig, captions_for, embedded, fit_words, remembered
from w2w.words.known_voices import Known, KnownVoices, between
from w2w.words.network import Density, WordsConfig, WordsNetwork, draw, negative_log_likelihood
from w2w.words.tied import Tie, voices_key

OLD_MAN = "an old man, low and rough"


def small_clip(folder: Path, seed: int) -> Path:
    """An untrained CLIP with a trained tokeniser."""
    torch.manual_seed(seed)
    config = SmallCLIPConfig(
        dim=32, picture_size=32, picture_width=4, text_width=32, text_layers=1, vocabulary=300
    )
    clip = SmallCLIP(config, train_tokeniser(portraits(120, size=32).captions, config)).eval()
    return save_small_clip(clip, folder)


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    return small_clip(tmp_path_factory.mktemp("clip"), seed=0)


def some_voices(dim: int, count: int = 80, seed: int = 0) -> KnownVoices:
    """Random voices whose measures are functions of their entries."""
    generator = torch.Generator().manual_seed(seed)
    voice = torch.randn(count, dim, generator=generator)
    woman = torch.arange(count) % 2
    voice[:, -1] = math.log(110.0) + 0.6 * woman + 0.05 * voice[:, 0]
    known = [
        Known(
            VoiceMeasures(float(v[-1]), 2.0 + float(v[1]), 0.3 * float(v[2]), float(v[3])),
            "F" if w else "M",
            None,
            str(i),
        )
        for i, (v, w) in enumerate(zip(voice, woman))
    ]
    return KnownVoices(voice, known)


@pytest.fixture(scope="module")
def tied(model, clip, tmp_path_factory) -> tuple[Converter, Path]:
    """A converter with a tie fitted to made-up voices."""
    config, converter = TowersConfig(name=str(clip)), Converter.from_pretrained(model)
    dim = converter.config.style.voice_dim
    fitting = FittingConfig(steps=10, captions=3, batch=32)
    tie, losses = tie_to(
        open_towers(config), config, converter, some_voices(dim), some_voices(dim, 20, seed=1), fitting
    )
    assert set(losses) == {"to_voice", "to_clip"}
    folder = tie.save(tmp_path_factory.mktemp("words"), config)
    return Converter.from_pretrained(model, words=folder), folder


def test_voices_from_text_convert_stream_and_blend(tied, buzz):
    converter, _ = tied
    voice, source = converter.embed_text(OLD_MAN), buzz(4_000, f0=(150.0,))
    assert voice.shape == (1, converter.config.style.voice_dim)
    whole = converter.convert(source, voice)
    live = converter.stream(voice, chunk_samples=320)
    assert_close(torch.cat([live.push(source), live.flush()], dim=-1), whole, atol=1e-5, rtol=1e-4)
    other = converter.embed(buzz(8_000, f0=(200.0,)))
    assert converter.convert(source, converter.blend([voice, other], [0.5, 0.5])).shape == source.shape


def test_voice_from_text_is_deterministic_and_seeds_repeat(tied):
    converter, _ = tied
    assert torch.equal(converter.embed_text(OLD_MAN), converter.embed_text(OLD_MAN, seed=5))
    one, again, other = (converter.embed_text(OLD_MAN, variety=1.0, seed=s) for s in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def bag_of_words(captions: list[str]) -> torch.Tensor:
    """A text tower that adds a random direction for each word."""
    rows = []
    for caption in captions:
        words = caption.replace(",", "").split()
        rows.append(
            sum(torch.randn(48, generator=torch.Generator().manual_seed(crc32(w.encode()))) for w in words)
        )
    return torch.nn.functional.normalize(torch.stack(rows), dim=-1)


def test_both_maps_learn_the_captions():
    known_voices, held = some_voices(13, 200), some_voices(13, 40, seed=1)
    config, rng = (
        FittingConfig(steps=150, captions=4, batch=48, lr=1e-2, check_every=30),
        np.random.default_rng(0),
    )
    scale = fit_scale(known_voices.measures, known_voices.gender)
    train, check = (
        embedded(*captions_for(part, scale, config, rng), bag_of_words) for part in (known_voices, held)
    )
    network = WordsNetwork(WordsConfig(clip_dim=48, voice_dim=13, n_components=2))
    memory = bag_of_words(remembered(network.config.n_memory, rng))
    fit_words(network, known_voices.voice, train, held.voice, check, memory, config)

    said = bag_of_words(
        ["a woman", "a man", "a woman with a very rough voice", "a woman with a very clear voice"]
    )
    woman, man, rough, clear = network.voice(draw(network.density(said)))
    assert float(woman[-1] - man[-1]) > 0.3
    assert float(rough[3] - clear[3]) > 0.5
    likeness = network.voice_embedding(held.voice) @ network.meaning(said[:2]).T
    right = (likeness[:, 0] > likeness[:, 1]) == torch.tensor([gender == "F" for gender in held.gender])
    assert float(right.float().mean()) > 0.8


def test_voices_are_made_from_picture_files_and_tensors(tied, tmp_path):
    converter, _ = tied
    face = portraits(1).pictures[0]
    Image.fromarray(face.permute(1, 2, 0).numpy()).save(tmp_path / "face.png")
    from_file = converter.embed_image(tmp_path / "face.png")
    assert torch.equal(from_file, converter.embed_image(str(tmp_path / "face.png")))
    assert_close(from_file, converter.embed_image(face))
    assert_close(from_file, converter.embed_image(face[None]))


def test_voice_description_has_one_word_per_trait(tied):
    converter, _ = tied
    words = converter.describe(converter.embed_text("a woman"), count=6)
    assert len(words) == 6
    assert [score for _, score in words] == sorted((score for _, score in words), reverse=True)
    with pytest.raises(UserError, match="shape"):
        converter.describe(torch.zeros(1, 3))


def test_saved_tie_round_trips_with_a_small_clip(tied, model):
    converter, folder = tied
    assert {"config.json", "model.safetensors", "clip"} <= {path.name for path in folder.iterdir()}
    again = Converter.from_pretrained(model, words=folder)
    assert torch.equal(again.embed_text(OLD_MAN), converter.embed_text(OLD_MAN))


def test_missing_tie_is_reported_with_a_remedy(model):
    converter = Converter.from_pretrained(model)
    for ask in (lambda: converter.embed_text(OLD_MAN), lambda: converter.embed_image("face.png")):
        with pytest.raises(UserError, match="not tied"):
            ask()
    with pytest.raises(UserError, match="no tie in the folder"):
        Converter.from_pretrained(model, words="nowhere").embed_text(OLD_MAN)


def test_tie_refuses_other_clips_and_converters(tied, tiny, tmp_path):
    _, folder = tied
    other = open_towers(TowersConfig(name=str(small_clip(tmp_path / "other", seed=9))))
    config = WordsConfig(towers_key="another", clip_dim=32, voice_dim=13)
    with pytest.raises(UserError, match="other weights"):
        Tie(WordsNetwork(config), other)
    torch.manual_seed(8)
    stranger = Converter(ConverterNetwork(tiny()), words=folder)
    with pytest.raises(UserError, match="another converter"):
        stranger.embed_text(OLD_MAN)
    assert voices_key(stranger.network.style) == voices_key(stranger.network.style)


@pytest.mark.parametrize("text", ["", "   ", "\n"])
def test_empty_text_is_refused(tied, text):
    with pytest.raises(UserError, match="empty"):
        tied[0].embed_text(text)


@pytest.mark.parametrize("variety", [-0.1, 2.5, math.nan])
def test_impossible_variety_is_refused(tied, variety):
    with pytest.raises(UserError, match="variety"):
        tied[0].embed_text(OLD_MAN, variety=variety)


def test_unusable_pictures_are_refused(tied, tmp_path):
    converter, _ = tied
    (tmp_path / "notes.png").write_text("not a picture")
    for picture, said in (
        (tmp_path / "none.png", "no picture"),
        (tmp_path, "folder"),
        (tmp_path / "notes.png", "not a picture"),
        (torch.zeros(3, 8, 8), "uint8"),
        (torch.zeros(8, 8, dtype=torch.uint8), "uint8"),
    ):
        with pytest.raises(UserError, match=said):
            converter.embed_image(picture)


def test_density_is_a_mixture_of_gaussians():
    generator = torch.Generator().manual_seed(0)
    density = Density(
        torch.tensor([[0.25, 0.75]]).log(), torch.tensor([[[0.0], [4.0]]]), torch.tensor([[[1.0], [0.5]]])
    )
    x = torch.tensor([[3.0]])
    expected = 0.25 * math.exp(-4.5) / math.sqrt(2 * math.pi) + 0.75 * math.exp(-2) / (
        0.5 * math.sqrt(2 * math.pi)
    )
    assert_close(negative_log_likelihood(density, x), torch.tensor([-math.log(expected)]))
    assert_close(draw(density), torch.tensor([[4.0]]))
    many = Density(*(part.expand(4000, *part.shape[1:]) for part in density))
    drawn = draw(many, variety=1.0, generator=generator)
    assert float(drawn.mean()) == pytest.approx(3.0, abs=0.15)


def test_coordinates_round_trip_for_few_dimensions():
    network = WordsNetwork(WordsConfig(clip_dim=8, voice_dim=13))
    voices = some_voices(13).voice
    network.settle(voices)
    coordinates = network.coordinates(voices)
    assert_close(network.voice(coordinates), voices, atol=1e-4, rtol=1e-3)
    assert_close(coordinates[:, :12].std(0), torch.ones(12), atol=1e-3, rtol=1e-3)


def test_captions_mention_the_measured_traits():
    known_voices = some_voices(13)
    config = FittingConfig(captions=3)
    scale = fit_scale(known_voices.measures, known_voices.gender)
    captions, owners = captions_for(known_voices, scale, config, np.random.default_rng(0))
    assert owners == [i for i in range(80) for _ in range(3)]
    assert captions == captions_for(known_voices, scale, config, np.random.default_rng(0))[0]
    text = " ".join(captions)
    assert all(word in text for word in ("woman", "man", "low", "rough", "bright"))


def test_interpolated_voices_keep_their_gender():
    known_voices = some_voices(13)
    made = between(known_voices, 50, np.random.default_rng(0))
    for voice, known in zip(made.voice, made.known):
        assert (float(voice[-1]) > math.log(148)) == (known.gender == "F")


def test_tie_and_convert_commands_run(model, clip, tmp_path, buzz, capsys, monkeypatch):
    # An untrained converter says nothing voiced: the recordings' own measures must do here.
    monkeypatch.setattr("w2w.tie.as_spoken", lambda converter, known_voices, probes: known_voices)
    monkeypatch.chdir(tmp_path)
    rows = []
    for number in range(8):
        f0, gender = (110.0 + 5 * number, "M") if number % 2 else (190.0 + 5 * number, "F")
        save(f"speech/{number}.wav", buzz(12_000, f0=(f0,)), 16_000)
        rows.append(Row(path=Path(f"speech/{number}.wav"), speaker=str(number), gender=gender))
    write_manifest("speech/metadata.csv", rows)
    save("me.wav", buzz(8_000, f0=(130.0,)), 16_000)
    tie_command(f"--converter {model} --towers {clip} --data speech --out words --made 6 --steps 5".split())
    assert "wrote words" in capsys.readouterr().out
    shared = ["me.wav", "--checkpoint", str(model), "--words", "words"]
    convert([*shared, "--text", OLD_MAN, "--out", "told.wav"])
    Image.fromarray(portraits(1).pictures[0].permute(1, 2, 0).numpy()).save("face.png")
    convert([*shared, "--picture", "face.png", "--variety", "0.5", "--seed", "1", "--out", "seen.wav"])
    assert load("told.wav").shape == load("seen.wav").shape == (1, 1, 8_000)


def test_converter_without_voiced_output_is_refused(model, clip, tmp_path, buzz, capsys):
    for number in range(8):
        save(tmp_path / f"{number}/a.wav", buzz(12_000, f0=(110.0 + 15 * number,)), 16_000)
    with pytest.raises(SystemExit):
        tie_command(
            f"--converter {model} --towers {clip} --data {tmp_path} --made 0 --out {tmp_path}/w".split()
        )
    assert "no voiced frames" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["released", "released_live"])
def test_released_ties_fit_the_released_converters(name):
    converter = Converter.from_pretrained(name)
    if converter.words is None:
        pytest.skip("no words come with this copy")
    hertz = {
        text: math.exp(float(converter.embed_text(text)[0, -1]))
        for text in ("a man", "a woman", "a man with a very low voice", "an old man, low and rough")
    }
    assert hertz["a woman"] > 1.3 * hertz["a man"]
    assert hertz["a man"] > 1.1 * hertz["a man with a very low voice"]
    assert hertz["an old man, low and rough"] < hertz["a man"]
