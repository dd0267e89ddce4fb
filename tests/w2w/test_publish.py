"""Publishing to the hub with card and checksums, and downloading, without a network."""

import shutil
from pathlib import Path

import huggingface_hub
import pytest
import torch

from engine.checkpoint import export
from engine.user_error import UserError
from w2w.converter import Converter
from w2w.networks.network import ConverterNetwork
from w2w.publish import Published, main

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CARD = "---\nlicense: mit\n---\n# A voice\n\nTrained on my own speech.\n"


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Path:
    """A fake hub: a folder laid out like huggingface_hub's cache."""
    cache = tmp_path / "hub"

    def create(api, repo_id, **options):
        monkeypatch.setattr(api, "seen", options, raising=False)
        return huggingface_hub.RepoUrl(f"https://huggingface.co/{repo_id}")

    def upload(api, repo_id, folder_path, **_):
        repo = cache / f"models--{repo_id.replace('/', '--')}"
        shutil.copytree(folder_path, repo / "snapshots" / COMMIT)
        (repo / "refs").mkdir()
        (repo / "refs/main").write_text(COMMIT)
        return f"https://huggingface.co/{repo_id}/commit/{COMMIT}"

    def unreachable(*_, **__):
        raise ConnectionError

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", create)
    monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", upload)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", unreachable)
    return cache


@pytest.fixture
def folder(tmp_path, tiny) -> Path:
    torch.manual_seed(0)
    config = tiny()
    made = export(tmp_path / "export", config, ConverterNetwork(config))
    (made / "README.md").write_text(CARD)
    return made


def test_published_converter_is_downloaded_unchanged(hub, folder, buzz, capsys):
    (folder / "words").mkdir()
    (folder / "words/tie.json").write_text("{}")
    (folder / "notes.txt").write_text("not for others")
    (folder.parent / "live.onnx").write_bytes(b"a graph")
    main([str(folder), "somebody/voice", "--onnx", str(folder.parent / "live.onnx")])
    assert "hub:somebody/voice" in capsys.readouterr().out
    (there,) = hub.glob("models--somebody--voice/snapshots/*")
    names = {file.relative_to(there).as_posix() for file in there.rglob("*") if file.is_file()}
    assert names == {
        "README.md", "SHA256SUMS", "config.json", "live.onnx", "model.safetensors", "words/tie.json",
    }  # fmt: skip
    card = (there / "README.md").read_text()
    assert "license: mit" in card
    assert "library_name: timbre" in card
    assert "Trained on my own speech." in card

    ours, theirs = Converter.from_pretrained(folder), Converter.from_pretrained("hub:somebody/voice")
    wave = buzz(4_000, f0=(150.0,))
    torch.testing.assert_close(theirs.convert(wave, theirs.embed(wave)), ours.convert(wave, ours.embed(wave)))
    assert Published.from_pretrained("somebody/voice", local_files_only=True).folder == theirs.folder


def test_changed_file_fails_its_checksum(hub, folder):
    Converter.from_pretrained(folder).push_to_hub("somebody/voice", private=True)
    (weights,) = hub.rglob("model.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    with pytest.raises(UserError, match="another checksum"):
        Converter.from_pretrained("hub:somebody/voice")


def test_nothing_is_published_without_a_card_or_weights(hub, folder, tmp_path):
    (folder / "README.md").unlink()
    with pytest.raises(UserError, match="write a card first"):
        Published(folder).push_to_hub("somebody/voice")
    with pytest.raises(UserError, match="no exported converter"):
        Published(tmp_path).push_to_hub("somebody/voice")
    assert not hub.exists()


def test_unknown_hub_name_is_reported(hub):
    with pytest.raises(UserError, match="cannot be downloaded"):
        Converter.from_pretrained("hub:nobody/nothing")
