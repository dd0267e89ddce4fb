"""Frozen recognisers behind one interface: a wave in, features per layer and posteriors out."""

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from engine.checkpoint import fill, load_weights
from engine.user_error import UserError
from pretrain.recogniser import RELEASED, RecogniserOutput, load_recogniser

OFFLINE = (OSError, RuntimeError, ValueError, KeyError)
"""What libraries raise for weights that cannot be had; which of them depends on their version."""


@dataclass(frozen=True, kw_only=True)
class LocalRecogniser:
    """A recogniser trained by ``pretrain/ctc.py``."""

    folder: Path = RELEASED
    """Its export; by default the one that comes with the code."""


@dataclass(frozen=True, kw_only=True)
class TransformersCTC:
    """A Wav2Vec2, HuBERT, WavLM or Data2Vec model with a CTC head, by transformers."""

    folder: str = "facebook/wav2vec2-base-960h"
    """A folder with its config and safetensors, or a name on the hub."""


@dataclass(frozen=True, kw_only=True)
class TorchaudioPipeline:
    """A wav2vec 2.0 or HuBERT recogniser, by torchaudio."""

    name: str = "WAV2VEC2_ASR_BASE_960H"
    """A bundle of ``torchaudio.pipelines``, or a folder with ``config.json``, the arguments of
    ``torchaudio.models.wav2vec2_model``, and ``model.safetensors``."""


@dataclass(frozen=True, kw_only=True)
class SpeechFeatures:
    """A pretrained speech encoder without a head: only its features can be compared, not posteriors."""

    folder: str = ""
    """A run of ``pretrain/data2vec.py``, its export, or a Data2VecAudio model of transformers."""


@dataclass(frozen=True, kw_only=True)
class FineTunedRecogniser:
    """A pretrained speech encoder fine-tuned with CTC by ``python -m pretrain.ctc``."""

    folder: str = ""
    """Its export, or the run."""


Backend = LocalRecogniser | TransformersCTC | TorchaudioPipeline | SpeechFeatures | FineTunedRecogniser
Wave = Float[Tensor, "batch 1 samples"]


@runtime_checkable
class Listener(Protocol):
    """A frozen recogniser; gradients pass through it to the wave."""

    sample_rate: int
    """Hz of the waves it takes."""

    def __call__(self, wave: Wave) -> RecogniserOutput: ...


def open_recogniser(backend: Backend) -> nn.Module:
    """Return the backend's ``Listener``, frozen and in evaluation mode."""
    match backend:
        case LocalRecogniser(folder=folder):
            recogniser = load_recogniser(folder)
        case TransformersCTC(folder=folder):
            recogniser = _Transformers(folder)
        case TorchaudioPipeline(name=name):
            recogniser = _Torchaudio(name)
        case SpeechFeatures(folder=folder):
            recogniser = _Features(folder)
        case FineTunedRecogniser(folder=folder):
            from pretrain.speech.loading import load_speech_recogniser

            recogniser = load_speech_recogniser(_given(folder, "recogniser fine-tuned by pretrain.ctc"))
    return recogniser.eval().requires_grad_(False)


class _Features(nn.Module):
    def __init__(self, folder: str) -> None:
        super().__init__()
        from pretrain.speech.loading import load_speech_encoder

        self.encoder = load_speech_encoder(_given(folder, "pretrained speech encoder"))
        self.sample_rate = self.encoder.sample_rate

    def forward(self, wave: Wave) -> RecogniserOutput:
        features = [frames.transpose(1, 2) for frames in self.encoder(wave).features]
        # No tokens: it was never taught any.
        return RecogniserOutput(features, wave.new_zeros(len(wave), features[0].shape[-1], 0))


def _given(folder: str, what: str) -> str:
    if not folder:
        raise UserError(f"no {what} was named: give its folder by --content.backend.folder FOLDER")
    # A run's export, where one is.
    inner = Path(folder) / "export"
    return str(inner) if (inner / "config.json").is_file() else folder


class _Transformers(nn.Module):
    def __init__(self, folder: str) -> None:
        super().__init__()
        self.model, self.standardise, self.sample_rate = _load_transformers(folder)

    def forward(self, wave: Wave) -> RecogniserOutput:
        wave = wave[:, 0]
        if self.standardise:
            wave = _standardise(wave)
        out = self.model(wave, output_hidden_states=True)
        # The first hidden state is the input of the first layer: acoustics rather than content.
        features = [hidden.transpose(1, 2) for hidden in out.hidden_states[1:]]
        return RecogniserOutput(features, out.logits.float().log_softmax(-1))


def _load_transformers(folder: str) -> tuple[Any, bool, int]:
    from transformers import AutoConfig, AutoFeatureExtractor, AutoModelForCTC
    from transformers.utils import logging

    if Path(folder).is_file():
        raise UserError(f"{folder} is a file: give the folder with config.json and model.safetensors")
    with ExitStack() as quiet:
        level = logging.get_verbosity()
        quiet.callback(logging.set_verbosity, level)
        logging.set_verbosity_error()
        try:
            config = AutoConfig.from_pretrained(folder)
            model, loading = AutoModelForCTC.from_pretrained(
                folder, config=config, use_safetensors=True, output_loading_info=True
            )
        except OFFLINE as error:
            raise UserError(
                f"cannot load a CTC recogniser from {folder}: {_brief(error)}; give a folder with "
                "config.json and model.safetensors, or use the local recogniser"
            ) from None
        try:
            extractor = AutoFeatureExtractor.from_pretrained(folder)
            standardise, rate = bool(getattr(extractor, "do_normalize", True)), extractor.sampling_rate
        except OFFLINE:  # a folder without preprocessor_config.json: as the published models
            standardise, rate = True, 16_000
    # transformers fills what the file lacks with random numbers, which would judge at random.
    missing = sorted(name for name in loading["missing_keys"] if not name.endswith("masked_spec_embed"))
    if missing or loading.get("mismatched_keys"):
        first = missing[0] if missing else sorted(map(str, loading["mismatched_keys"]))[0]
        raise UserError(f"{folder} has no weights for {first}: it is not a recogniser fine-tuned with CTC")
    return model, standardise, int(rate)


class _Torchaudio(nn.Module):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.model, self.standardise, self.sample_rate = _load_torchaudio(name)

    def forward(self, wave: Wave) -> RecogniserOutput:
        wave = wave[:, 0]
        if self.standardise:
            wave = _standardise(wave)
        features: list[Tensor] = []

        def keep(layer: nn.Module, inputs: Any, output: Any) -> None:
            hidden = output[0] if isinstance(output, tuple) else output
            features.append(hidden.transpose(1, 2))

        with ExitStack() as hooks:
            for layer in self.model.encoder.transformer.layers:
                hooks.callback(layer.register_forward_hook(keep).remove)
            logits, _ = self.model(wave)
        return RecogniserOutput(features, logits.float().log_softmax(-1))


def _load_torchaudio(name: str) -> tuple[Any, bool, int]:
    import json

    import torchaudio

    if Path(name).exists():
        path = Path(name) / "config.json"
        try:
            arguments = json.loads(path.read_text())
            model = torchaudio.models.wav2vec2_model(**arguments)
        except (OSError, TypeError, ValueError) as error:
            raise UserError(
                f"{path} is not a torchaudio wav2vec2_model configuration: {_brief(error)}"
            ) from None
        if model.aux is None:
            raise UserError(f"{path}: the model needs an output head, set aux_num_out")
        weights = Path(name) / "model.safetensors"
        fill(model, load_weights(weights), weights)
        return model, False, 16_000
    bundle = getattr(torchaudio.pipelines, name, None)
    if not isinstance(bundle, torchaudio.pipelines.Wav2Vec2ASRBundle):
        raise UserError(f"torchaudio.pipelines has no recogniser {name!r}; WAV2VEC2_ASR_BASE_960H is one")
    try:
        model = bundle.get_model()
    except OFFLINE as error:
        raise UserError(
            f"the weights of torchaudio's {name} cannot be had: {_brief(error)}; use the local recogniser"
        ) from None
    # A wrapper around some models standardises the wave; the layers are to be had inside it.
    standardise = bool(getattr(model, "normalize_waveform", False))
    return getattr(model, "model", model), standardise, int(bundle.sample_rate)


def _standardise(wave: Float[Tensor, "batch samples"]) -> Float[Tensor, "batch samples"]:
    centred = wave - wave.mean(-1, keepdim=True)
    return centred * torch.rsqrt(centred.square().mean(-1, keepdim=True) + 1e-7)


def _brief(error: Exception) -> str:
    """Return the first sentence of a library's complaint, in one line."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].split(". ")[0].rstrip(".")[:200]
