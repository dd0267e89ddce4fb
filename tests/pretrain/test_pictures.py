"""Pictures from sound: each way draws what its target asks for, and scores tell right from wrong."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from tiny_towers import write_towers

from data.audio import save
from data.synthetic.world import World
from engine.checkpoint import export
from engine.user_error import UserError
from pretrain.clip.towers import TowersConfig, open_towers
from pretrain.probe.embedders import Embedder
from pretrain.probe.pictures import best_of, picture_scores, pictures, world_pairs
from pretrain.probe.pictures_networks import (
    GeneratorConfig,
    PictureGenerator,
    fit_classifier,
    fit_generator,
    fit_linear_map,
    generator_loss,
    load_generator,
)
from pretrain.probe.pictures_page import Recording, recordings, wave_of
from pretrain.probe.pictures_untrained import OptimisedConfig, diffuse, open_unclip, optimise, own_length
from pretrain.probe.pictures_vqgan import TamingDecoder, open_vqgan

TINY = GeneratorConfig(dim=4, size=16, width=8, code=2, batch=8, steps=150, lr=1e-2, noise=0.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_towers(tmp_path_factory.mktemp("towers"))


@pytest.fixture(scope="module")
def towers(folder):
    return open_towers(TowersConfig(name=str(folder)))


def test_optimised_pictures_come_nearer_to_their_targets(towers):
    targets = F.normalize(torch.randn(3, towers.dim), dim=-1)
    drawn = optimise(towers, targets, OptimisedConfig(steps=40, lr=0.1), progress=False)
    start = optimise(towers, targets, OptimisedConfig(steps=1), progress=False)
    assert drawn.shape == (3, 3, 32, 32)
    assert drawn.dtype == torch.uint8
    near, before = ((towers.images(d) * targets).sum(-1) for d in (drawn, start))
    assert (near > before + 0.03).all()
    assert all(parameter.grad is None for parameter in towers.parameters())


def coloured(n=64):
    """Squares of two colours at random places, and embeddings that tell the colour alone."""
    rng = np.random.default_rng(0)
    made = torch.full((n, 3, 16, 16), 100, dtype=torch.uint8)
    for index in range(n):
        y, x = rng.integers(0, 8, 2)
        made[index, index % 2 * 2, y : y + 8, x : x + 8] = 255
    embeddings = torch.eye(4)[torch.arange(n) % 2]
    return made, embeddings


def test_a_generator_draws_what_the_embedding_says_and_chance_the_rest(tmp_path):
    generator = fit_generator(*coloured(), TINY, progress=False)
    red, blue = (generator.draw(torch.eye(4)[[which] * 8]).float() for which in (0, 1))
    assert (red[:, 0].amax((1, 2)) > red[:, 2].amax((1, 2)) + 10).all()
    assert (blue[:, 2].amax((1, 2)) > blue[:, 0].amax((1, 2)) + 10).all()
    assert red.std(0).mean() > 1  # no two alike
    again = load_generator(export(tmp_path, TINY, generator))
    assert torch.equal(again.draw(torch.eye(4)), generator.draw(torch.eye(4)))


def test_gradients_reach_all_of_the_generator_and_the_divergence_is_the_closed_form():
    generator = PictureGenerator(TINY)
    picture, embedding, chance = torch.rand(5, 3, 16, 16), torch.randn(5, 4), torch.randn(5, 2)
    terms = generator_loss(generator, picture, embedding, chance)
    sum(terms.values()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in generator.parameters())
    mean, logvar = generator.infer(picture, embedding)
    theirs = torch.distributions.kl_divergence(
        torch.distributions.Normal(mean, (0.5 * logvar).exp()), torch.distributions.Normal(0.0, 1.0)
    )
    torch.testing.assert_close(terms["code"], TINY.kl * theirs.sum(-1).mean())


def test_a_linear_map_between_two_clouds_is_found():
    audio = torch.randn(300, 6) + 3
    weight = torch.linalg.qr(torch.randn(6, 6))[0]
    images = F.normalize(audio @ weight + 1, dim=-1)
    assert (fit_linear_map(audio, images)(audio) * images).sum(-1).mean() > 0.97


def test_the_right_pictures_are_found_and_wrong_ones_are_not(towers):
    world = World(0, "held_out")
    test = world_pairs(world, towers, 24)
    assert len(test.names) == len(set(test.names)) == 24
    small = towers.prepare(world.pictures(world.indices[:200]))
    values = torch.from_numpy(world.values(world.indices[:200]))
    classifier = fit_classifier(values, small, steps=40, batch=24, progress=False)
    right = picture_scores(test.pictures, test, towers, None)
    assert right["R@1"][0] == right["MRR"][0] == 1.0
    wrong = picture_scores(test.pictures.roll(1, 0), test, towers, classifier)
    assert wrong["R@1"][0] < 0.2
    recognised = classifier.values(test.pictures).numpy()
    assert (recognised == test.values).mean(0)[1] > 0.4  # the colour, of six


class FakeEncoder(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.config = type("Config", (), {"image_size": 8, "projection_dim": 4})
        self.weight = torch.nn.Parameter(torch.randn(3 * 64, 4))

    def forward(self, pixels):
        return type("Seen", (), {"image_embeds": pixels.flatten(1) @ self.weight})


class UnCLIPImageVariationPipeline:
    """What the ways of diffusers' pipeline are to the caller."""

    def __init__(self):
        self.image_encoder, self.given = FakeEncoder(), []

    def __call__(self, *, image_embeddings, decoder_num_inference_steps, generator, output_type):
        assert output_type == "np"
        self.given.append((image_embeddings, decoder_num_inference_steps))
        shade = torch.rand(1, generator=generator).item()
        return type("Out", (), {"images": np.full((1, 6, 6, 3), shade, np.float32)})


def test_diffusion_is_given_embeddings_as_long_as_its_own():
    pipeline = UnCLIPImageVariationPipeline()
    embeddings = F.normalize(torch.randn(2, 4), dim=-1)
    drawn = diffuse(pipeline, embeddings, steps=3, progress=False)
    assert drawn.shape == (2, 3, 6, 6)
    assert not torch.equal(drawn[0], drawn[1])
    assert torch.equal(diffuse(pipeline, embeddings, steps=3, progress=False), drawn)
    length = own_length(pipeline)
    (first, steps), *_ = pipeline.given
    torch.testing.assert_close(first, embeddings[:1] * length)
    assert steps == 3
    with pytest.raises(UserError, match="draws from 4 numbers and the encoder gives 5"):
        diffuse(pipeline, torch.randn(1, 5), progress=False)


def test_folders_that_are_no_pipeline_are_one_sentence(tmp_path):
    with pytest.raises(UserError, match=r"model_index\.json is missing"):
        open_unclip(tmp_path)
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))
    with pytest.raises(UserError, match="does not draw from embeddings"):
        open_unclip(tmp_path)


def write_scenes(folder):
    lines = ["path,picture,caption,split"]
    for number in range(8):
        colour, pitch = (("red", 300), ("blue", 2_000))[number % 2]
        Image.new("RGB", (40, 40), colour).save(folder / f"{number}.png")
        wave = torch.sin(torch.arange(8_000) * (2 * np.pi * pitch / 16_000))
        save(folder / f"{number}.wav", wave[None, None], 16_000)
        lines.append(
            f"{number}.wav,{number}.png,a {colour} thing {number},{'train' if number < 4 else 'test'}"
        )
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("how", ["optimised", "generator"])
def test_the_command_draws_scores_and_shows(tmp_path, folder, how, monkeypatch):
    """With an encoder of as many numbers as the towers; nothing is learned in so few steps."""

    def embed(wave):
        return torch.stack([w.std() * torch.arange(1.0, 9.0) for w in wave])

    loudness = Embedder("loudness", 8, 16_000, embed)
    monkeypatch.setattr("pretrain.probe.harness.open_embedders", lambda names, device: [loudness])
    write_scenes(tmp_path)
    out = tmp_path / "out"
    options = [
        "--data",
        str(tmp_path),
        "--how",
        how,
        "--towers",
        str(folder),
        "--steps",
        "3",
        "--out",
        str(out),
    ]
    results = pictures([*options, "--no-random", "--encoder", "loudness"])
    assert {r.encoder for r in results} == {"loudness", "its embedding", "the picture"}
    assert Image.open(out / f"pictures_{how}.png").width > 400
    if how == "generator":
        again = pictures([*options, "--no-random", "--generator", str(out / "generator")])
        assert [r.value for r in again] == [r.value for r in results]


def test_missing_weights_and_other_spaces_are_one_sentence(folder):
    with pytest.raises(UserError, match="needs --weights FOLDER"):
        pictures(["--how", "diffusion"])
    with pytest.raises(UserError, match=r"gives 128 numbers and the towers 8.*--towers"):
        pictures(["--how", "optimised", "--towers", str(folder), "--encoder", "logmel", "--no-random"])


def test_the_best_of_several_drawings_is_the_one_that_clip_finds_nearest(towers):
    generator = PictureGenerator(replace(TINY, dim=towers.dim, size=32)).eval()
    targets = F.normalize(torch.randn(3, towers.dim), dim=-1)

    def near(drawn):
        return (towers.images(drawn) * targets).sum(-1)

    tries = torch.stack([near(generator.draw(targets, seed=seed)) for seed in range(4)])
    torch.testing.assert_close(near(best_of(generator, targets, towers, 4)), tries.amax(0))


def test_clips_eye_draws_the_generator_to_what_it_should_show():
    """An eye that sees the mean colour alone: drawings by random codes come to have it."""
    pictures, embeddings = (
        torch.full((8, 3, 16, 16), 100, dtype=torch.uint8),
        torch.eye(4)[torch.arange(8) % 2],
    )

    def see(pixels):
        return F.normalize(F.pad(pixels.mean((2, 3)), (0, 1)), dim=-1)

    config = replace(TINY, clip=30.0, steps=80)
    generator = fit_generator(pictures, embeddings, config, see=see, progress=False)
    red, green = generator.draw(torch.eye(4)[:2]).float()
    assert red[0].mean() > red[1:].mean() + 60
    assert green[1].mean() > green[::2].mean() + 60


TAMING = {
    "embed_dim": 6,
    "ddconfig": {
        "z_channels": 8,
        "ch": 32,
        "ch_mult": [1, 2],
        "num_res_blocks": 1,
        "resolution": 16,
        "attn_resolutions": [8],
        "out_ch": 3,
    },
}


def write_taming(folder):
    """A VQGAN of random weights as taming-transformers keeps it, the encoder's side and the loss included."""
    torch.manual_seed(0)
    shape = TAMING["ddconfig"]
    network = TamingDecoder(6, *(shape[name] for name in list(shape)[:-1]))
    state = {f"{name}": tensor for name, tensor in network.state_dict().items()}
    state |= {"quantize.embedding.weight": torch.randn(5, 6), "encoder.conv_in.weight": torch.zeros(1)}
    folder.mkdir()
    (folder / "model.yaml").write_text(json.dumps({"model": {"params": TAMING}}))  # JSON is YAML
    torch.save({"state_dict": state}, folder / "last.ckpt")
    return folder


def test_a_vqgan_of_tamings_layout_is_opened_and_guided(tmp_path, towers):
    vqgan = open_vqgan(write_taming(tmp_path / "vqgan"))
    assert (vqgan.factor, vqgan.codebook.shape) == (2, (5, 6))
    codes, pixels = vqgan.canvas(torch.zeros(2, 4), torch.Generator().manual_seed(0), 32)
    assert codes.shape == (2, 6, 16, 16)
    assert pixels(codes).shape == (2, 3, 32, 32)
    torch.testing.assert_close(pixels(codes + 0.01), pixels(codes))  # rounded to the codebook
    targets = F.normalize(torch.randn(2, towers.dim), dim=-1)

    def canvas(part, rng):
        return vqgan.canvas(part, rng, 32)

    config = OptimisedConfig(steps=30, lr=0.3, smoothness=0.0)
    drawn, start = (
        optimise(towers, targets, c, canvas=canvas, progress=False)
        for c in (config, replace(config, steps=1))
    )
    near, before = ((towers.images(d) * targets).sum(-1) for d in (drawn, start))
    assert near.mean() > before.mean() + 0.02


def test_folders_that_are_no_vqgan_are_one_sentence(tmp_path):
    with pytest.raises(UserError, match="holds no VQGAN"):
        open_vqgan(tmp_path)
    (tmp_path / "model.yaml").write_text("model: {}")
    with pytest.raises(UserError, match="no configuration of a VQGAN"):
        open_vqgan(tmp_path)
    (tmp_path / "model.yaml").write_text(json.dumps({"model": {"params": TAMING}}))
    with pytest.raises(UserError, match="no checkpoint"):
        open_vqgan(tmp_path)
    with pytest.raises(UserError, match=r"needs --weights FOLDER, a VQGAN"):
        pictures(["--how", "vqgan"])


@pytest.mark.reference
def test_the_decoder_equals_diffusers_on_random_weights(tmp_path):
    """diffusers' VQModel is the same network under other names; its own layout opens, too."""
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    blocks = ["DownEncoderBlock2D", "DownEncoderBlock2D"], ["UpDecoderBlock2D", "UpDecoderBlock2D"]
    theirs = diffusers.VQModel(
        down_block_types=blocks[0],
        up_block_types=blocks[1],
        block_out_channels=(32, 64),
        layers_per_block=1,
        latent_channels=8,
        num_vq_embeddings=5,
        vq_embed_dim=6,
    ).eval()
    ours = TamingDecoder(6, 8, 32, [1, 2], 1, 16, []).eval()
    names = {
        "decoder.mid.block_": "decoder.mid_block.resnets.",
        "decoder.mid.attn_1.norm": "decoder.mid_block.attentions.0.group_norm",
        "decoder.mid.attn_1.q": "decoder.mid_block.attentions.0.to_q",
        "decoder.mid.attn_1.k": "decoder.mid_block.attentions.0.to_k",
        "decoder.mid.attn_1.v": "decoder.mid_block.attentions.0.to_v",
        "decoder.mid.attn_1.proj_out": "decoder.mid_block.attentions.0.to_out.0",
        "decoder.norm_out": "decoder.conv_norm_out",
    }
    given, state = theirs.state_dict(), {}
    for name, tensor in ours.state_dict().items():
        other = name
        for own, its in names.items():
            other = other.replace(own, its)
        other = (
            re.sub(r"resnets\.(\d)", lambda m: f"resnets.{int(m[1]) - 1}", other)
            if "mid_block.resnets" in other
            else other
        )
        other = re.sub(r"up\.(\d)\.block", lambda m: f"up_blocks.{1 - int(m[1])}.resnets", other)
        other = re.sub(r"up\.(\d)\.upsample", lambda m: f"up_blocks.{1 - int(m[1])}.upsamplers.0", other)
        other = other.replace("nin_shortcut", "conv_shortcut")
        state[name] = given[other].view_as(tensor)
    ours.load_state_dict(state)
    codes = torch.randn(2, 6, 8, 8)
    with torch.no_grad():
        expected = theirs.decode(codes, force_not_quantize=True).sample
        torch.testing.assert_close(ours(codes), expected, atol=1e-4, rtol=1e-4)
        theirs.save_pretrained(tmp_path)
        torch.testing.assert_close(open_vqgan(tmp_path).decode(codes), (expected + 1) / 2)


def noise(path, samples=8_000):
    path.parent.mkdir(parents=True, exist_ok=True)
    save(path, 0.1 * torch.randn(1, 1, samples), 16_000)
    return path


def test_recordings_are_files_folders_and_corpora_as_published(tmp_path):
    rain = noise(tmp_path / "rain.wav")
    assert recordings([rain]) == [Recording(rain, "rain")]
    song = tmp_path / "musdb18hq/test/Ann - A Song"
    for stem in ("mixture", "vocals", "drums"):
        noise(song / f"{stem}.wav")
    assert [h.caption for h in recordings([tmp_path / "musdb18hq"])] == [
        f"Ann - A Song: {stem}" for stem in ("mixture", "drums", "vocals")
    ]
    urban = tmp_path / "UrbanSound8K"
    noise(urban / "audio/fold1/7061-6-0-0.wav")
    (urban / "metadata").mkdir()
    (urban / "metadata/UrbanSound8K.csv").write_text(
        "slice_file_name,fsID,start,end,salience,fold,classID,class\n7061-6-0-0.wav,7061,0,1,1,1,6,gun_shot\n"
    )
    assert recordings([urban, rain]) == [
        Recording(urban / "audio/fold1/7061-6-0-0.wav", "gun_shot: 7061-6-0-0"),
        Recording(rain, "rain"),
    ]
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no audio files"):
        recordings([tmp_path / "empty"])


def test_the_stems_of_a_packed_song_are_its_streams(tmp_path):
    av = pytest.importorskip("av")
    path, pitches = tmp_path / "Ann - A Song.stem.mp4", (300, 2_000)
    with av.open(str(path), "w", format="mp4") as container:
        streams = [container.add_stream("aac", rate=44_100, layout="stereo") for _ in pitches]
        for stream, pitch in zip(streams, pitches):
            tone = np.sin(2 * np.pi * pitch * np.arange(44_100) / 44_100).astype(np.float32)
            frame = av.AudioFrame.from_ndarray(np.stack([tone, tone]), format="fltp", layout="stereo")
            frame.sample_rate = 44_100
            for packet in [*stream.encode(frame), *stream.encode(None)]:
                container.mux(packet)
    mix, drums, *_ = recordings([path])
    assert (mix.caption, drums.caption) == ("Ann - A Song: mixture", "Ann - A Song: drums")
    for heard, pitch in zip((mix, drums), pitches):
        wave = wave_of(heard, 16_000)[0, 0]
        peak = torch.fft.rfft(wave).abs().argmax() * 16_000 / len(wave)
        assert abs(peak - pitch) < 10
    with pytest.raises(UserError, match="no stream 4"):
        wave_of(recordings([path])[4], 16_000)


@pytest.mark.parametrize("how", ["optimised", "vqgan"])
def test_any_recording_is_drawn_onto_a_page_beside_captions(tmp_path, folder, how, monkeypatch):
    loudness = Embedder(
        "loudness", 8, 16_000, lambda wave: torch.stack([w.std() * torch.arange(1.0, 9.0) for w in wave])
    )
    monkeypatch.setattr("pretrain.probe.harness.open_embedders", lambda names, device: [loudness])
    (tmp_path / "captions.txt").write_text("a dog <barks>\nrain\n")
    options = ["--audio", str(noise(tmp_path / "rain & wind.wav")), str(noise(tmp_path / "b/stems/bass.wav"))]
    options += [
        "--how",
        how,
        "--towers",
        str(folder),
        "--steps",
        "2",
        "--out",
        str(tmp_path / "out"),
        "--no-random",
    ]
    if how == "vqgan":
        options += ["--weights", str(write_taming(tmp_path / "vqgan"))]
    assert pictures([*options, "--captions", str(tmp_path / "captions.txt")]) == []
    page = (tmp_path / f"out/pictures_{how}.html").read_text()
    assert "rain &amp; wind</h2>" in page
    assert "bass</h2>" in page
    assert "loudness: a dog &lt;barks&gt;" in page or "loudness: rain<" in page
    names = re.findall(r'<img src="([^"]+)"', page)
    assert [Image.open(tmp_path / "out" / name).size for name in names] == [(32, 32)] * 2
