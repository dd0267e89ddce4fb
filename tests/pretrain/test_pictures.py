"""Images generated from sounds: the four methods, their networks, and their scores."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from data.audio import save
from data.synthetic.world import World
from engine.checkpoint import export
from engine.user_error import UserError
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
from pretrain.probe.pictures_untrained import OptimisedConfig, diffuse, open_unclip, optimise, own_length

TINY = GeneratorConfig(dim=4, size=16, width=8, code=2, batch=8, steps=150, lr=1e-2, noise=0.0)


def test_optimised_images_approach_their_targets(towers):
    targets = F.normalize(torch.randn(3, towers.dim), dim=-1)
    drawn = optimise(towers, targets, OptimisedConfig(steps=40, lr=0.1))
    start = optimise(towers, targets, OptimisedConfig(steps=1))
    assert drawn.shape == (3, 3, 32, 32)
    assert drawn.dtype == torch.uint8
    near, before = ((towers.images(d) * targets).sum(-1) for d in (drawn, start))
    assert (near > before + 0.03).all()
    assert all(parameter.grad is None for parameter in towers.parameters())


def coloured(n=64):
    """Return squares of two colours at random positions, and embeddings of the colour only."""
    rng = np.random.default_rng(0)
    made = torch.full((n, 3, 16, 16), 100, dtype=torch.uint8)
    for index in range(n):
        y, x = rng.integers(0, 8, 2)
        made[index, index % 2 * 2, y : y + 8, x : x + 8] = 255
    embeddings = torch.eye(4)[torch.arange(n) % 2]
    return made, embeddings


def test_generator_determines_colour_by_the_embedding_and_position_by_chance(tmp_path):
    generator = fit_generator(*coloured(), TINY)
    red, blue = (generator.draw(torch.eye(4)[[which] * 8]).float() for which in (0, 1))
    assert (red[:, 0].amax((1, 2)) > red[:, 2].amax((1, 2)) + 10).all()
    assert (blue[:, 2].amax((1, 2)) > blue[:, 0].amax((1, 2)) + 10).all()
    assert red.std(0).mean() > 1  # positions differ
    again = load_generator(export(tmp_path, TINY, generator))
    assert torch.equal(again.draw(torch.eye(4)), generator.draw(torch.eye(4)))


def test_gradients_reach_the_whole_generator_and_the_divergence_equals_torchs():
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


def test_linear_map_is_recovered():
    audio = torch.randn(300, 6) + 3
    weight = torch.linalg.qr(torch.randn(6, 6))[0]
    images = F.normalize(audio @ weight + 1, dim=-1)
    assert (fit_linear_map(audio, images)(audio) * images).sum(-1).mean() > 0.97


def test_scores_are_high_for_the_true_images_and_low_for_others(towers):
    world = World(0, "held_out")
    test = world_pairs(world, towers, 24)
    assert len(test.names) == len(set(test.names)) == 24
    small = towers.prepare(world.pictures(world.indices[:200]))
    values = torch.from_numpy(world.values(world.indices[:200]))
    classifier = fit_classifier(values, small, steps=40, batch=24)
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
    """The interface of diffusers' pipeline."""

    def __init__(self):
        self.image_encoder, self.given = FakeEncoder(), []

    def __call__(self, *, image_embeddings, decoder_num_inference_steps, generator, output_type):
        assert output_type == "np"
        self.given.append((image_embeddings, decoder_num_inference_steps))
        shade = torch.rand(1, generator=generator).item()
        return type("Out", (), {"images": np.full((1, 6, 6, 3), shade, np.float32)})


def test_diffusion_gets_embeddings_with_the_norm_of_its_own():
    pipeline = UnCLIPImageVariationPipeline()
    embeddings = F.normalize(torch.randn(2, 4), dim=-1)
    drawn = diffuse(pipeline, embeddings, steps=3)
    assert drawn.shape == (2, 3, 6, 6)
    assert not torch.equal(drawn[0], drawn[1])
    assert torch.equal(diffuse(pipeline, embeddings, steps=3), drawn)
    length = own_length(pipeline)
    (first, steps), *_ = pipeline.given
    torch.testing.assert_close(first, embeddings[:1] * length)
    assert steps == 3
    with pytest.raises(UserError, match="needs embeddings of 4 dimensions, the encoder has 5"):
        diffuse(pipeline, torch.randn(1, 5))


def test_folders_without_a_suitable_pipeline_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"model_index\.json is missing"):
        open_unclip(tmp_path)
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))
    with pytest.raises(UserError, match="does not take image embeddings"):
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
def test_command_scores_images_and_writes_a_grid(tmp_path, towers_folder, how, monkeypatch):
    """The encoder has the towers' dimension; nothing is learned in so few steps."""

    def embed(wave):
        return torch.stack([w.std() * torch.arange(1.0, 9.0) for w in wave])

    loudness = Embedder("loudness", 8, 16_000, embed)
    monkeypatch.setattr("pretrain.probe.harness.open_embedders", lambda names, device: [loudness])
    write_scenes(tmp_path)
    out = tmp_path / "out"
    options = (
        f"--data {tmp_path} --how {how} --towers {towers_folder} --steps 3 --out {out} --no-random".split()
    )
    results = pictures([*options, "--encoder", "loudness"])
    assert {r.encoder for r in results} == {"loudness", "its embedding", "the picture"}
    assert Image.open(out / f"pictures_{how}.png").width > 400
    if how == "generator":
        again = pictures([*options, "--generator", str(out / "generator")])
        assert [r.value for r in again] == [r.value for r in results]


def test_missing_weights_and_other_dimensions_are_refused(towers_folder):
    with pytest.raises(UserError, match="needs --weights FOLDER"):
        pictures(["--how", "diffusion"])
    with pytest.raises(UserError, match=r"has 128 dimensions and the towers 8.*--towers"):
        pictures(["--how", "optimised", "--towers", str(towers_folder), "--encoder", "logmel", "--no-random"])


def test_best_of_several_images_is_the_nearest_by_clip(towers):
    generator = PictureGenerator(replace(TINY, dim=towers.dim, size=32)).eval()
    targets = F.normalize(torch.randn(3, towers.dim), dim=-1)

    def near(drawn):
        return (towers.images(drawn) * targets).sum(-1)

    tries = torch.stack([near(generator.draw(targets, seed=seed)) for seed in range(4)])
    torch.testing.assert_close(near(best_of(generator, targets, towers, 4)), tries.amax(0))


def test_clip_loss_makes_images_of_random_codes_match_the_embedding():
    """The image tower embeds the mean colour only."""
    pictures, embeddings = (
        torch.full((8, 3, 16, 16), 100, dtype=torch.uint8),
        torch.eye(4)[torch.arange(8) % 2],
    )

    def embed_image(pixels):
        return F.normalize(F.pad(pixels.mean((2, 3)), (0, 1)), dim=-1)

    config = replace(TINY, clip=30.0, steps=80)
    generator = fit_generator(pictures, embeddings, config, embed_image=embed_image)
    red, green = generator.draw(torch.eye(4)[:2]).float()
    assert red[0].mean() > red[1:].mean() + 60
    assert green[1].mean() > green[::2].mean() + 60
