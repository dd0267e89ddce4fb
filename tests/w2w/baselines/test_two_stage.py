"""A mel converter with a vocoder as one network: exact streaming, any length, latency."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.testing import assert_close

from data.frontends import NAMED, LogMel, MelConfig
from engine.streaming import CausalConv1d
from engine.user_error import UserError
from vocoders.griffin_lim import GriffinLimConfig
from vocoders.hifigan import V2_16K
from vocoders.melgan import MELGAN_16K
from vocoders.vocoder import Vocoder, VocoderConfig
from w2w import Converter
from w2w.baselines import two_stage
from w2w.baselines.two_stage import TwoStage, live_log_mel, reach_ahead
from w2w.networks.wave_network import WaveNetwork

SPEECH = NAMED["speech16k"]
SAMPLES = 13_333
HIFIGAN = replace(V2_16K, channels=16)
MELGAN = replace(MELGAN_16K, channels=2)


class Blocks(nn.Module):
    """A causal mel converter on blocks of frames; with ``whole``, it also uses the mean."""

    def __init__(self, mel: MelConfig = SPEECH, *, whole: bool = False, frames_per_step: int = 4) -> None:
        super().__init__()
        self.config, self.mel, self.voice_dim, self.frames_per_step = whole, mel, 3, frames_per_step
        self.needs_whole = "norm is 'instance', which needs the whole utterance" if whole else ""
        self.past = CausalConv1d(mel.n_mels, mel.n_mels, 3)
        self.tint = nn.Linear(3, mel.n_mels)

    @property
    def streams(self) -> bool:
        return not self.needs_whole

    def style_of_mel(self, mel: Tensor) -> Tensor:
        return torch.stack([mel.mean((1, 2)), mel.std((1, 2)), mel[:, :10].mean((1, 2))], dim=-1)

    def forward(self, mel: Tensor, voice: Tensor) -> Tensor:
        missing = -mel.shape[-1] % self.frames_per_step
        converted = self.step(nn.functional.pad(mel, (0, missing)), voice, self.begin(len(mel)))[0]
        converted = converted[..., : mel.shape[-1]]
        return converted - converted.mean(-1, keepdim=True) if self.needs_whole else converted

    def begin(self, batch: int) -> Tensor:
        return self.past.begin(batch)

    def step(self, mel: Tensor, voice: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        blocks = mel.unflatten(-1, (-1, self.frames_per_step))
        heard = (mel - blocks.mean(-1, keepdim=True).expand_as(blocks).flatten(-2) + 6.0) / 3.0
        made, state = self.past.step(heard, state)
        return 0.7 * mel + made + 0.1 * self.tint(voice)[..., None], state


def vocoder(network=HIFIGAN, mel: MelConfig = SPEECH, **more) -> Vocoder:
    return Vocoder(VocoderConfig(mel=mel, network=network, **more)).eval()


def converter(network=HIFIGAN, **more) -> Converter:
    return Converter(TwoStage(Blocks(**more), vocoder(network)))


@pytest.fixture(scope="module", params=[HIFIGAN, MELGAN], ids=["hifigan", "melgan"])
def case(request, buzz):
    """A live converter, a voice, a source, and the whole conversion at once."""
    torch.manual_seed(4)
    live = converter(request.param)
    source = buzz(SAMPLES, f0=(130.0,))
    voice = live.embed(buzz(8_000, f0=(190.0,)))
    with torch.inference_mode():
        return live, voice, source, live.network(source, voice)


def test_networks_satisfy_the_wave_network_protocol(tiny):
    from w2w.networks.network import ConverterNetwork

    assert isinstance(TwoStage(Blocks(), vocoder()), WaveNetwork)
    assert isinstance(ConverterNetwork(tiny()), WaveNetwork)


@settings(max_examples=8, deadline=None)
@given(cuts=st.lists(st.integers(1, SAMPLES - 1), max_size=6))
def test_chunks_of_any_length_equal_the_whole(case, cuts):
    live, voice, source, whole = case
    stream = live.stream(voice)
    edges = sorted({0, SAMPLES, *cuts})
    parts = [stream.push(source[..., start:stop]) for start, stop in pairwise(edges)]
    assert_close(torch.cat([*parts, stream.flush()], dim=-1), whole, rtol=0, atol=1e-5)
    assert float(whole.std()) > 1e-3


@pytest.mark.parametrize("samples", [1, 159, 640, 2_001])
def test_short_sources_keep_their_length_and_stream_exactly(case, samples):
    live, voice, source, _ = case
    source = source[..., :samples]
    stream = live.stream(voice, chunk_samples=100)
    made = torch.cat([*map(stream.push, source.split(100, dim=-1)), stream.flush()], dim=-1)
    whole = live.convert(source, voice)
    assert whole.shape == source.shape
    assert_close(made, whole, rtol=0, atol=1e-5)


def test_long_source_in_blocks_equals_one_step(case, monkeypatch):
    live, voice, source, whole = case
    monkeypatch.setattr("w2w.baselines.two_stage.BLOCK_FRAMES", 7)
    monkeypatch.setattr("w2w.converter.BLOCK_S", 0.3)
    with torch.inference_mode():
        assert_close(live.network(source, voice), whole, rtol=0, atol=1e-5)
    assert_close(live.convert(source, voice), whole, rtol=0, atol=1e-5)


def test_stream_equals_the_vocoder_on_the_converted_mel(case):
    """Away from the edges, frames equal the definition's, up to a shift by a fraction of a hop."""
    live, voice, source, whole = case
    network = live.network
    delay = reach_ahead(network.mel)
    delayed = torch.nn.functional.pad(source, (delay, -SAMPLES % 160))
    mel = network.converted_mel(delayed, voice)
    expected = torch.cat(list(network.vocoder.stream([mel])), dim=-1)[..., delay:]
    inside = slice(4_000, 9_000)
    assert_close(whole[..., inside], expected[..., inside], rtol=0, atol=1e-5)


@pytest.mark.parametrize("chunk", [640, 320, 1_920, 100])
def test_latency_is_the_exact_maximum_delay(case, chunk):
    live, voice, _, _ = case
    stream = live.stream(voice, chunk_samples=chunk)
    arrived, made, longest = 0, 0, 0
    while made < 4_000:
        arrived += chunk
        ready = stream.push(torch.zeros(1, 1, chunk)).shape[-1]
        if ready:
            longest = max(longest, arrived - made)
        made += ready
    assert longest == round(stream.latency_ms * 16)
    assert stream.latency_ms == pytest.approx(
        (chunk + (640 - torch.gcd(torch.tensor(chunk), torch.tensor(640)).item())) / 16
        + 15.0
        + 10.0 * live.network.vocoder.network.halo
    )


def test_look_ahead_is_not_exceeded(case):
    live, voice, source, _ = case
    network, at = live.network, 6_000
    changed = source.clone()
    changed[..., at:] = 0.3 * torch.randn(changed[..., at:].shape)
    with torch.inference_mode():
        apart = (network(changed, voice) - network(source, voice)).abs()[0, 0]
    first = int(apart.gt(1e-6).nonzero()[0])
    assert at - network.look_ahead - network.hop < first < at


@pytest.mark.parametrize("name", ["speech16k", "speech16k_causal", "hifigan"])
def test_live_log_mel_equals_the_definition(name, buzz):
    mel = NAMED[name]
    wave, ahead = buzz(4_000, f0=(140.0,)), reach_ahead(mel)
    n_frames = 4_000 // mel.hop
    past = torch.nn.functional.pad(wave, (mel.n_fft - mel.hop, 0))
    live = live_log_mel(mel)(past[..., : mel.n_fft - mel.hop + n_frames * mel.hop])
    # Delayed by what they reach ahead, so that frames are compared at hops of the delayed wave.
    own = LogMel(mel)(torch.nn.functional.pad(wave, (ahead, -(4_000 + ahead) % mel.hop)))
    assert_close(live[..., 4 : n_frames - 4], own[..., 4 : n_frames - 4], rtol=0, atol=2e-3)


@pytest.mark.parametrize("network", [HIFIGAN, GriffinLimConfig(iterations=2)], ids=["hifigan", "griffin_lim"])
def test_non_streaming_network_converts_and_states_the_reason(buzz, network):
    whole = converter(network, whole=True)
    source = buzz(5_001, f0=(120.0,))
    voice = whole.embed(source)
    assert whole.convert(source, voice).shape == source.shape
    pieces = list(whole.pieces(source.split(999, dim=-1), voice))
    assert_close(torch.cat(pieces, dim=-1), whole.convert(source, voice))
    with pytest.raises(UserError, match="norm is 'instance'"):
        whole.stream(voice)
    assert whole.convert(source[..., :1], voice).shape == (1, 1, 1)


def test_griffin_lim_does_not_stream(buzz):
    network = TwoStage(Blocks(), vocoder(GriffinLimConfig(iterations=1)))
    assert not network.streams
    with pytest.raises(UserError, match="vocoder is griffin_lim, which cannot stream"):
        Converter(network).stream(torch.zeros(1, 3))


def test_very_long_mel_is_converted_in_cross_faded_windows(monkeypatch):
    monkeypatch.setattr(two_stage, "LONGEST_S", 1.0)
    monkeypatch.setattr(two_stage, "SHARED_S", 0.2)
    heard = []

    def convert(mel: Tensor, voice: Tensor) -> Tensor:
        heard.append(mel.shape[-1])
        return mel + len(heard)

    mel, voice = torch.zeros(1, 80, 333), torch.zeros(1, 3)
    pieces = list(two_stage.converted_in_windows(convert, SPEECH, mel, voice))
    made = torch.cat(pieces, dim=-1)
    assert made.shape == mel.shape
    assert max(heard) <= 100
    assert max(heard) - min(heard) <= 4
    assert float(made.diff().abs().max()) < 0.1
    assert (made[..., 0] == 1).all()
    assert (made[..., -1] == len(heard)).all()


def test_single_window_equals_the_network():
    network, mel, voice = Blocks(whole=True), torch.randn(1, 80, 50) - 5, torch.zeros(1, 3)
    with torch.no_grad():
        made = torch.cat(list(two_stage.converted_in_windows(network, SPEECH, mel, voice)), dim=-1)
        assert torch.equal(made, network(mel, voice))


def test_converted_mel_is_aligned_with_the_source(case):
    live, voice, source, _ = case
    assert live.network.converted_mel(source, voice).shape == (1, 80, -(-SAMPLES // 160))


def test_rows_are_converted_independently(case, buzz):
    live, voice, _, _ = case
    both = buzz(4_000, f0=(110.0, 170.0))
    voices = torch.cat([voice, voice + 1.0])
    with torch.inference_mode():
        made = live.network(both, voices)
        for row in range(2):
            alone = live.network(both[row : row + 1], voices[row : row + 1])
            assert_close(made[row : row + 1], alone, rtol=0, atol=1e-5)


def test_unsupported_operations_are_refused(case):
    live, voice, source, _ = case
    with pytest.raises(UserError, match="cannot move the pitch"):
        live.convert(source, voice, semitones=1.0)
    with pytest.raises(UserError, match="not tied to words"):
        live.embed_text("an old man")
    with pytest.raises(UserError, match="not tied to words"):
        live.describe(voice)
    with pytest.raises(UserError, match="'speech16k', the vocoder reads mels 'hifigan'"):
        TwoStage(Blocks(), Vocoder(VocoderConfig()))


def test_vocoder_gain_is_undone(case):
    live, voice, source, whole = case
    loud = Vocoder(replace(live.network.vocoder.config, gain=4.0)).eval()
    loud.load_state_dict(live.network.vocoder.state_dict())
    made = TwoStage(live.network.mel_network, loud)(source, voice)
    assert_close(made * 4.0, whole, rtol=0, atol=1e-5)
