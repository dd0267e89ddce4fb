"""CLIP's frozen towers: equality with open_clip, no training, and error messages."""

import pytest
import torch
from tiny_towers import write_towers
from torch.testing import assert_close

from engine.user_error import UserError
from pretrain.clip.towers import HUB_SECONDS, Towers, TowersConfig, hub_answers, open_towers


def stripes(height, width):
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    planes = [
        128 + 60 * torch.sin(columns / 17 + rows / 31 + c) + 60 * torch.sin(columns * rows / 999)
        for c in range(3)
    ]
    return torch.stack(planes)[None].to(torch.uint8)


@pytest.mark.parametrize("resize_mode", ["shortest", "squash", "longest"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", [(48, 64), (100, 301), (32, 32), (301, 100), (20, 20)])
def test_images_are_prepared_as_by_open_clip(towers, resize_mode, interpolation, size):
    from open_clip.transform import PreprocessCfg, image_transform_v2
    from PIL import Image

    settings = {
        **towers.clip.visual.preprocess_cfg,
        "resize_mode": resize_mode,
        "interpolation": interpolation,
    }
    theirs = image_transform_v2(PreprocessCfg(**settings), is_train=False)
    picture = stripes(*size)
    ours = Towers(towers.clip, towers.tokenizer, title="tiny")
    ours.resize_mode, ours.interpolation = resize_mode, interpolation
    prepared = (ours.prepare(picture).float() / 255 - ours.mean) / ours.std
    expected = theirs(Image.fromarray(picture[0].permute(1, 2, 0).numpy()))
    assert (prepared[0] - expected).abs().max() * 0.25 * 255 < 2.5  # grey levels


def test_embeddings_equal_open_clips_at_unit_length(towers):
    pictures = stripes(32, 32)
    pixels = (pictures.float() / 255 - 0.5) / 0.25
    assert_close(towers.images(pictures), towers.clip.encode_image(pixels, normalize=True).detach())
    tokens = towers.tokenizer(["a dog barks"])
    assert_close(towers.texts(["a dog barks"]), towers.clip.encode_text(tokens, normalize=True).detach())
    assert towers.images(pictures[:0]).shape == towers.texts([]).shape == (0, towers.dim)


def test_towers_are_not_trained_but_pass_gradients_to_pixels(towers):
    pixels = torch.rand(1, 3, 32, 32, requires_grad=True)
    towers.embed(pixels).sum().backward()
    assert pixels.grad is not None
    assert pixels.grad.abs().sum() > 0
    assert all(p.grad is None and not p.requires_grad for p in towers.parameters())
    assert not any(module.training for module in towers.train().modules() if module is not towers)
    assert not towers.training


def test_image_embedding_does_not_depend_on_the_rest_of_the_batch(towers):
    pictures = torch.randint(0, 256, (5, 3, 40, 50), dtype=torch.uint8)
    assert_close(towers.images(pictures)[2:3], towers.images(pictures[2:3]), rtol=1e-5, atol=1e-6)


def test_keys_depend_on_weights_but_not_on_the_folder(tmp_path, towers):
    assert open_towers(TowersConfig(name=str(write_towers(tmp_path / "moved")))).key == towers.key
    assert open_towers(TowersConfig(name=str(write_towers(tmp_path / "other", seed=1)))).key != towers.key


def refusal(**config):
    with pytest.raises(UserError) as caught:
        open_towers(TowersConfig(**config))
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence


def test_unknown_names_and_files_are_refused_in_one_sentence(tmp_path, towers_folder):
    assert "did you mean ViT-B-32?" in refusal(name="ViT-B32")
    assert "it has openai" in refusal(pretrained="openal")
    (tmp_path / "open_clip_config.json").write_text((towers_folder / "open_clip_config.json").read_text())
    assert "has no weights" in refusal(name=str(tmp_path))
    (tmp_path / "open_clip_model.safetensors").write_bytes(b"not weights at all")
    assert "has no weights for" in refusal(name=str(tmp_path))
    assert "has no weights for" in refusal(
        name="ViT-S-32-alt", pretrained=str(tmp_path / "open_clip_model.safetensors")
    )
    (tmp_path / "bare").mkdir()
    assert "has no open_clip_config.json" in refusal(name=str(tmp_path / "bare"))


def test_hub_is_asked_once_without_a_network(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr("pretrain.clip.towers.hub_answers", lambda: asked.append(1))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    sentence = refusal(name="ViT-B-32-quickgelu", pretrained="metaclip_400m")
    assert "hub does not answer" in sentence
    assert len(asked) == 1


def test_unreachable_hub_is_recognised(monkeypatch):
    class Unreachable:
        def model_info(self, name, timeout):
            assert timeout <= HUB_SECONDS
            raise OSError("Name or service not known")

    monkeypatch.setattr("huggingface_hub.HfApi", Unreachable)
    assert not hub_answers()
