"""Recordings for image generation and the page of their images; the decoder of published VQGANs."""

import json
import re
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from data.audio import save
from engine.user_error import UserError
from pretrain.probe.embedders import Embedder
from pretrain.probe.pictures import pictures
from pretrain.probe.pictures_page import Recording, recordings, wave_of
from pretrain.probe.pictures_untrained import OptimisedConfig, optimise
from pretrain.probe.pictures_vqgan import TamingDecoder, open_vqgan

TAMING = {
    "embed_dim": 6,
    "ddconfig": {
        **{"z_channels": 8, "ch": 32, "ch_mult": [1, 2], "num_res_blocks": 1},
        **{"resolution": 16, "attn_resolutions": [8], "out_ch": 3},
    },
}


def write_taming(folder):
    """Write a VQGAN of random weights in taming-transformers' layout, with a tensor of the encoder."""
    torch.manual_seed(0)
    network = TamingDecoder(6, TAMING["ddconfig"])
    state = {network.own_name(name): tensor for name, tensor in network.state_dict().items()}  # its inverse
    state |= {"quantize.embedding.weight": torch.randn(5, 6), "encoder.conv_in.weight": torch.zeros(1)}
    folder.mkdir()
    (folder / "model.yaml").write_text(json.dumps({"model": {"params": TAMING}}))  # JSON is YAML
    torch.save({"state_dict": state}, folder / "last.ckpt")
    return folder


def test_vqgan_in_tamings_layout_is_opened_and_optimised(tmp_path, towers):
    vqgan = open_vqgan(write_taming(tmp_path / "vqgan"))
    assert (vqgan.factor, vqgan.codebook.shape) == (2, (5, 6))
    codes, pixels = vqgan.canvas(torch.zeros(2, 4), torch.Generator().manual_seed(0), 32)
    assert codes.shape == (2, 6, 16, 16)
    assert pixels(codes).shape == (2, 3, 32, 32)
    torch.testing.assert_close(pixels(codes + 0.01), pixels(codes))  # rounded to the codebook
    targets = F.normalize(torch.randn(2, towers.dim), dim=-1)
    canvas, config = partial(vqgan.canvas, side=32), OptimisedConfig(steps=30, lr=0.3, smoothness=0.0)
    drawn, start = (optimise(towers, targets, c, canvas=canvas) for c in (config, replace(config, steps=1)))
    near, before = ((towers.images(d) * targets).sum(-1) for d in (drawn, start))
    assert near.mean() > before.mean() + 0.02


def test_folders_without_a_vqgan_are_refused(tmp_path):
    with pytest.raises(UserError, match="has no VQGAN"):
        open_vqgan(tmp_path)
    (tmp_path / "model.yaml").write_text("model: {}")
    with pytest.raises(UserError, match="not a VQGAN's configuration"):
        open_vqgan(tmp_path)
    (tmp_path / "model.yaml").write_text(json.dumps({"model": {"params": TAMING}}))
    with pytest.raises(UserError, match="no checkpoint"):
        open_vqgan(tmp_path)
    elsewhere = {**TAMING, "ddconfig": {**TAMING["ddconfig"], "attn_resolutions": [16]}}
    (tmp_path / "model.yaml").write_text(json.dumps({"model": {"params": elsewhere}}))
    with pytest.raises(UserError, match=r"model\.yaml.*attn_resolutions \[16\]: only attention"):
        open_vqgan(tmp_path)
    with pytest.raises(UserError, match=r"needs --weights FOLDER, a VQGAN"):
        pictures(["--how", "vqgan"])


@pytest.mark.reference
def test_decoder_equals_diffusers_on_random_weights(tmp_path):
    """diffusers' VQModel is the same network with other parameter names; its layout is opened, too."""
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
    ours = TamingDecoder(6, {**TAMING["ddconfig"], "attn_resolutions": []}).eval()
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
        other = re.sub(r"up\.(\d)\.block", r"up_blocks.\1.resnets", other)
        other = re.sub(r"up\.(\d)\.upsample", r"up_blocks.\1.upsamplers.0", other)
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


def test_recordings_are_listed_from_files_folders_and_corpora(tmp_path):
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


def test_stems_of_an_mp4_file_are_its_streams(tmp_path):
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
    for recording, pitch in zip((mix, drums), pitches):
        wave = wave_of(recording, 16_000)[0, 0]
        peak = torch.fft.rfft(wave).abs().argmax() * 16_000 / len(wave)
        assert abs(peak - pitch) < 10
    with pytest.raises(UserError, match="no stream 4"):
        wave_of(recordings([path])[4], 16_000)


def test_page_shows_images_of_recordings_with_their_nearest_captions(tmp_path, towers_folder, monkeypatch):
    loudness = Embedder(
        "loudness", 8, 16_000, lambda wave: torch.stack([w.std() * torch.arange(1.0, 9.0) for w in wave])
    )
    monkeypatch.setattr("pretrain.probe.harness.open_embedders", lambda names, device: [loudness])
    (tmp_path / "captions.txt").write_text("a dog <barks>\nrain\n")
    options = ["--audio", str(noise(tmp_path / "rain & wind.wav")), str(noise(tmp_path / "b/stems/bass.wav"))]
    options += f"--how vqgan --towers {towers_folder} --steps 2 --out {tmp_path / 'out'} --no-random".split()
    options += ["--weights", str(write_taming(tmp_path / "vqgan"))]
    assert pictures([*options, "--captions", str(tmp_path / "captions.txt")]) == []
    page = (tmp_path / "out/pictures_vqgan.html").read_text()
    assert "rain &amp; wind</h2>" in page
    assert "bass</h2>" in page
    assert "loudness: a dog &lt;barks&gt;" in page or "loudness: rain<" in page
    names = re.findall(r'<img src="([^"]+)"', page)
    assert [Image.open(tmp_path / "out" / name).size for name in names] == [(32, 32)] * 2
