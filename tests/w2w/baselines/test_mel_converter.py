"""The folder of a mel converter: its vocoder, export, use, and refused mistakes."""

import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from data.audio import info, load, save
from data.frontends import NAMED
from engine.checkpoint import draft_folder, export, load_weights, publish, save_checkpoint
from engine.config import load_config
from engine.user_error import UserError
from vocoders.griffin_lim import GriffinLim
from vocoders.hifigan import V2_16K, V2_24K, HiFiGAN
from vocoders.vocoder import VocoderConfig
from w2w import Converter
from w2w.baselines import mel_converter, predict
from w2w.baselines.cluit_mel.network import CluitMelNetwork
from w2w.baselines.cluit_mel.presets import PRESETS
from w2w.baselines.mel_converter import MelConverterConfig, export_mel_converter
from w2w.baselines.stargan.converter import StarGANUseConfig
from w2w.baselines.stargan.train import PRESETS as STARGAN
from w2w.baselines.stargan.train import build as stargan_task
from w2w.baselines.stargan.train import completed
from w2w.baselines.two_stage import mel_of
from w2w.convert import main as convert
from w2w.export import export_run
from w2w.export import main as export_command
from w2w.networks.network import ConverterNetwork
from w2w.weights import is_mel_converter

TINY = PRESETS["tiny"]
SMALL_HIFIGAN = replace(V2_16K, channels=16)


def a_vocoder(folder: Path, mel="speech16k", network=SMALL_HIFIGAN) -> Path:
    config = VocoderConfig(mel=NAMED[mel], network=network)
    return export(folder, config, HiFiGAN(network).fold())


def a_run(folder: Path, **changes) -> Path:
    config = replace(TINY, network=replace(TINY.network, **changes))
    network = CluitMelNetwork(config.network)
    draft = draft_folder(folder, 4)
    save_checkpoint(draft, {"network": network, "network_ema": network}, {}, config, {"step": 4})
    publish(draft, keep=1)
    return folder


@pytest.fixture
def here(tmp_path, monkeypatch, buzz):
    """A folder to work in: recordings, a small released vocoder, and a run's export."""
    monkeypatch.chdir(tmp_path)
    released = a_vocoder(tmp_path / "package")
    a_vocoder(tmp_path / "package_hifigan")
    monkeypatch.setattr("vocoders.loading.RELEASED", released)
    save("me.wav", buzz(9_123, f0=(120.0,)), 16_000)
    save("her.wav", buzz(9_000, f0=(200.0,)), 16_000)
    export_mel_converter(a_run(Path("run")), Path("run/export"))
    return tmp_path


def test_export_is_the_averaged_network_with_the_released_vocoder(here):
    config = load_config(MelConverterConfig, "run/export/config.json")
    assert (config.road, config.vocoder) == (TINY.network, "released")
    assert is_mel_converter(Path("run/export"))
    (checkpoint,) = Path("run/checkpoints").iterdir()
    averaged = load_weights(checkpoint / "network_ema.safetensors")
    assert_close(load_weights("run/export/model.safetensors"), averaged, rtol=0, atol=0)
    network = CluitMelNetwork(TINY.network).eval()
    network.load_state_dict(averaged)
    converter = Converter.from_pretrained("run")
    source, clip = load("me.wav"), load("her.wav")
    voice = converter.embed(clip)
    with torch.inference_mode():
        mel = network(mel_of(source, converter.network.mel), voice).clamp_min(math.log(1e-5))
    assert_close(converter.network.converted_mel(source, voice), mel, rtol=0, atol=1e-4)
    expected = converter.network.vocoder(mel)[..., : source.shape[-1]]
    assert_close(converter.convert(source, voice), expected, rtol=0, atol=1e-4)


def test_custom_vocoder_is_copied_into_the_export(here):
    export_command(["run", "--vocoder", str(a_vocoder(here / "tuned"))])
    first = Converter.from_pretrained("run")
    shutil.rmtree("tuned")
    shutil.move("run/export", "elsewhere")
    moved = Converter.from_pretrained("elsewhere")
    voice, source = first.embed(load("her.wav")), load("me.wav")
    assert torch.equal(moved.convert(source, voice), first.convert(source, voice))
    released = Converter.from_pretrained("elsewhere", vocoder="released")
    assert not torch.equal(released.convert(source, voice), first.convert(source, voice))


def test_second_export_keeps_the_vocoder(here):
    for vocoder, kept in ((str(a_vocoder(here / "tuned")), "vocoder"), ("griffin_lim", "griffin_lim")):
        export_command(["run", "--vocoder", vocoder])
        export_command(["run"])
        assert load_config(MelConverterConfig, "run/export/config.json").vocoder == kept
        Converter.from_pretrained("run")


def test_griffin_lim_is_used_for_mels_that_no_released_vocoder_reads(here):
    export_mel_converter(a_run(here / "other", mel=NAMED["speech16k_causal"]), here / "other/export")
    network = Converter.from_pretrained("other").network
    assert isinstance(network.vocoder.network, GriffinLim)
    assert network.vocoder.mel == NAMED["speech16k_causal"]


def test_causal_mel_converter_streams_as_it_converts(here, buzz):
    export_mel_converter(a_run(here / "live", causal=True, norm="frame"), here / "live/export")
    converter = Converter.from_pretrained("live")
    source = buzz(12_345, f0=(140.0,))
    voice = converter.embed(load("her.wav"))
    stream = converter.stream(voice, chunk_samples=500)
    made = torch.cat([*map(stream.push, source.split(500, dim=-1)), stream.flush()], dim=-1)
    assert_close(made, converter.convert(source, voice), rtol=0, atol=1e-5)
    assert converter.network.hop == TINY.network.frames_per_step * 160


def test_statistics_option_sets_only_the_frozen_statistics(here, buzz):
    export_mel_converter(a_run(here / "frozen", causal=True, norm="frozen"), here / "frozen/export")
    save("clip.wav", buzz(16_000, f0=(140.0,)), 16_000)
    before = load_weights("frozen/export/model.safetensors")
    export_command(["frozen", "--statistics", "clip.wav"])
    after = load_weights("frozen/export/model.safetensors")
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"generator.clip"}  # the network as trained; only what it is normalised by


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("run --statistics clip.wav", "--statistics clip.wav: network.norm is 'instance'"),
        ("run --average run", "--average is for one wave-to-wave"),
        ("run --vocoder nowhere", "vocoder 'nowhere' is unknown"),
        ("run --vocoder other_mel", "the output of run is a mel 'speech16k', the vocoder reads mels"),
        ("nowhere --vocoder released", "nowhere holds no checkpoint"),
    ],
)
def test_wrong_export_is_refused_in_one_sentence(here, buzz, line, words, refusal):
    save("clip.wav", buzz(16_000, f0=(140.0,)), 16_000)
    a_vocoder(here / "other_mel", "speech16k_causal")
    assert words in refusal(export_command, line)


def test_command_converts_with_any_vocoder(here):
    for number, more in enumerate(("", "--vocoder griffin_lim", f"--vocoder {a_vocoder(here / 'tuned')}")):
        convert(f"me.wav --reference her.wav --checkpoint run --out {number}.wav {more}".split())
        assert info(f"{number}.wav").samples == 9_123
    waves = [load(f"{number}.wav") for number in range(3)]
    assert not any(torch.equal(waves[i], waves[j]) for i, j in ((0, 1), (0, 2), (1, 2)))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--reference her.wav --pitch 2 --checkpoint run", "cannot move the pitch"),
        ("--text old --checkpoint run", "not tied to words"),
        ("--speaker anna --checkpoint run", "needs --data"),
        ("--reference her.wav --checkpoint run --vocoder other_mel", "the output of run/export is a mel"),
        ("--reference her.wav --checkpoint run --vocoder nowhere", "vocoder 'nowhere' is unknown"),
        ("--reference her.wav --checkpoint waves --vocoder released", "needs no vocoder"),
        ("--reference her.wav --checkpoint bare", "config.json is missing"),
        ("--reference her.wav --checkpoint torn", "there is no folder torn/vocoder"),
        ("--reference her.wav --checkpoint odd", "there is no key 'channels' in road"),
    ],
)
def test_wrong_conversion_is_refused_in_one_sentence(here, tiny, line, words, refusal):
    a_vocoder(here / "other_mel", "speech16k_causal")
    export(here / "waves", tiny(), ConverterNetwork(tiny()))
    Path("bare").mkdir()
    network = CluitMelNetwork(TINY.network)
    torn = export(here / "torn", MelConverterConfig(road=TINY.network, vocoder="vocoder"), network)
    shutil.copytree(torn, "odd")
    text = Path("odd/config.json").read_text().replace('"n_channels"', '"channels"')
    Path("odd/config.json").write_text(text)
    assert words in refusal(convert, f"me.wav --out out.wav {line}")
    assert not Path("out.wav").exists()


def test_speaker_names_are_resolved_by_the_network(here, monkeypatch):
    """StarGAN's voices are labels."""
    from w2w.voices import Voices

    converter = Converter.from_pretrained("run")

    def named_voice(name: str) -> torch.Tensor:
        if name != "anna":
            raise UserError(f"speaker {name!r} is unknown")
        return torch.ones(1, 8)

    converter.network.named_voice = named_voice
    assert torch.equal(Voices(converter).speaker("anna"), torch.ones(1, 8))
    with pytest.raises(UserError, match="'bert' is unknown"):
        Voices(converter).speaker("bert")


def test_predicted_mels_are_conversions_to_the_recordings_own_voice(here, capsys):
    for name, wave in (("anna/1", load("me.wav")), ("bert/1", load("her.wav"))):
        save(f"speech/{name}.wav", wave, 16_000)
    save("speech/bert/2.wav", torch.zeros(1, 1, 9_000), 16_000)
    line = "--checkpoint run --data speech --out mels"
    with pytest.raises(SystemExit, match=r"^1$"):
        predict.main(line.split())
    told = capsys.readouterr()
    assert "2 mels written for 3 recordings" in told.out
    assert "2 done, 1 left out:\n  speech/bert/2.wav is silent" in told.err
    converter = Converter.from_pretrained("run")
    wave = load("speech/anna/1.wav")
    expected = converter.network.converted_mel(wave, converter.embed(wave))[0]
    made = np.load("mels/anna/1.npy")
    assert made.shape == (80, -(-9_123 // 160))
    assert_close(torch.from_numpy(made), expected, rtol=0, atol=1e-5)
    np.save("mels/anna/1.npy", made + 1.0)
    with pytest.raises(SystemExit, match=r"^1$"):  # continues: existing mels stay
        predict.main(line.split())
    assert np.array_equal(np.load("mels/anna/1.npy"), made + 1.0)


def test_ambiguous_or_impossible_predictions_are_refused(here, tiny, refusal):
    for place in ("a/speaker/x.wav", "b/speaker/x.wav"):
        save(f"speech/{place}", load("me.wav"), 16_000)
    line = "--data speech --out mels --checkpoint"
    assert "would both be written to" in refusal(predict.main, f"{line} run")
    export(here / "waves", tiny(), ConverterNetwork(tiny()))
    assert "is not a mel converter" in refusal(predict.main, f"{line} waves")
    assert not Path("mels").exists()


@pytest.fixture
def star(here, buzz) -> Path:
    """An exported run of StarGAN with two speakers."""
    config = STARGAN["tiny"]
    lines = ["path,speaker,split"]
    for name, f0 in (("anna", 220.0), ("bert", 110.0)):
        save(f"named/{name}.wav", buzz(70_000, f0=(f0,)), 16_000)
        lines.append(f"{name}.wav,{name},train")
    Path("named/manifest.csv").write_text("\n".join(lines) + "\n")
    config = completed(replace(config, data=replace(config.data, path="named/manifest.csv")))
    draft = draft_folder(Path("star"), 4)
    save_checkpoint(draft, stargan_task(config).modules, {}, config, {"step": 4})
    publish(draft, keep=1)
    return export_run(Path("star"), Path("star/export"))


def test_stargan_export_converts_by_speaker_name(star, here):
    config = load_config(MelConverterConfig, star / "config.json")
    assert config.vocoder == "released"
    assert isinstance(config.road, StarGANUseConfig)
    for number, more in enumerate(("--speaker anna", "--speaker bert --vocoder griffin_lim")):
        convert(f"me.wav --checkpoint star --no-watermark --out {number}.wav {more}".split())
        assert info(f"{number}.wav").samples == 9_123
    converter = Converter.from_pretrained("star")
    made = converter.convert(load("me.wav"), converter.network.named_voice("anna"))
    assert_close(load("0.wav"), made.clamp(-1, 1 - 2**-15), rtol=0, atol=2**-15)


def test_stargan_predicts_mels_for_a_mel_vocoder(star, here, refusal):
    line = "--checkpoint star --data named --out mels --vocoder"
    assert "choose a vocoder that reads mels" in refusal(predict.main, f"{line} griffin_lim")
    predict.main(f"{line} released".split())
    assert np.load("mels/named/anna.npy").shape == (80, -(-70_000 // 160))


def test_unsupported_uses_of_stargan_are_refused(star, here, refusal):
    line = "me.wav --checkpoint star --out x --speaker"
    assert "has no voice 'carl'" in refusal(convert, f"{line} carl")
    other = a_vocoder(here / "other_rate", "speech24k", replace(V2_24K, channels=16))
    assert "has 16000 Hz, but the vocoder" in refusal(convert, f"{line} anna --vocoder {other}")
    assert "is for CLUIT on mels" in refusal(export_command, "star --statistics me.wav")
    converter = Converter.from_pretrained("star")
    with pytest.raises(UserError, match="generator needs"):
        converter.stream(converter.network.named_voice("anna"))


def test_hub_download_includes_the_vocoder(here, monkeypatch):
    import huggingface_hub

    from w2w.weights import weights_folder

    asked = []
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *_, **__: None)
    monkeypatch.setattr(
        huggingface_hub, "hf_hub_download", lambda _, name, **__: str(here / "run/export" / name)
    )
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda _, allow_patterns, **__: asked.extend(allow_patterns)
    )
    assert weights_folder("hub:someone/road") == here / "run/export"
    assert "vocoder/*" in asked


def test_vocoder_names_are_the_packaged_ones_and_griffin_lim():
    assert set(mel_converter.WORDS) == {"released", "released_24k", "released_hifigan", "griffin_lim"}
