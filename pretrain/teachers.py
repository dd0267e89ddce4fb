"""Frozen speech encoders as teachers, with one interface.

    teacher = load_teacher("models/moonshine-tiny")  # or hub:UsefulSensors/moonshine-tiny
    features = teacher(wave)  # (batch, dim, frames); frame k is at sample teacher.offset + k · teacher.hop

Supported are Moonshine, Whisper, HuBERT, WavLM and wav2vec 2.0 in transformers' format, runs and exports of
pretrain/data2vec.py, and causal students of any of them. ``moonshine``, Moonshine tiny's encoder, and
``released``, a causal student of it, are packaged.
"""

import json
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedModel

from data.frontends import LogMel, MelConfig
from engine.config import stored_kind
from engine.hub import hint, repository
from engine.user_error import UserError
from pretrain.causal.encoder import RELEASED, Student, StudentConfig, load_student
from pretrain.moonshine import ENCODER_ALONE, load_moonshine, moonshine_teacher
from pretrain.moonshine import RELEASED as MOONSHINE
from pretrain.speech.encoder import SpeechEncoder, standardised
from pretrain.speech.loading import PUBLISHED, load_speech_encoder
from pretrain.teacher import SAMPLE_RATE, Framing, Hidden, Teacher, Wave, framing_of

WAV2VEC2_KIND = ("hubert", "wav2vec2", "wavlm")
"""Architectures with wav2vec 2.0's structure: convolutions on the wave and a transformer."""
KNOWN = ("moonshine", "whisper", *WAV2VEC2_KIND, PUBLISHED)


def load_teacher(where: str | Path) -> Teacher:
    """Load a teacher from a folder of transformers, a run, an export, or the hub (``hub:owner/name``)."""
    name = str(where)
    if not name:
        raise UserError("no teacher was given: name the folder of a speech encoder, or hub:owner/name")
    if (published := repository(name)) is not None:
        return _published(published, online=True)
    folder = {"released": RELEASED, "moonshine": MOONSHINE}.get(name, Path(where))
    if not folder.is_dir():
        raise UserError(f"there is no folder {name} with a speech encoder{hint(name)}")
    if StudentConfig.KIND in (stored_kind(folder), stored_kind(folder / "export")):
        return _student(load_student(folder))
    model_type = _model_type(folder) if (folder / "config.json").is_file() else None
    if model_type in (None, PUBLISHED):
        return speech_teacher(load_speech_encoder(name))
    if model_type == "moonshine" and (folder / ENCODER_ALONE).is_file():
        return load_moonshine(folder)
    return _published(name, online=False)


def _model_type(folder: Path) -> str | None:
    """Return the architecture named in transformers' config.json; None in our own."""
    try:
        config = json.loads((folder / "config.json").read_text())
    except ValueError:
        raise UserError(f"{folder / 'config.json'} is not JSON: copy the model's folder again") from None
    return config.get("model_type") if isinstance(config, dict) else None


def _published(name: str, *, online: bool) -> Teacher:
    try:
        config = AutoConfig.from_pretrained(name, local_files_only=not online)
    except (OSError, ValueError) as error:  # no network, no such name, or an architecture unknown to it
        raise _loading_error(name, online, error) from None
    if config.model_type not in KNOWN:
        raise UserError(f"{name} is a {config.model_type}: a teacher is one of {', '.join(KNOWN)}")
    if config.model_type == PUBLISHED:
        return speech_teacher(load_speech_encoder(name))
    return teacher_of(_weights(name, config, online=online), standardise=_standardises(name, config, online))


def _weights(name: str, config: Any, *, online: bool) -> PreTrainedModel:
    options = {"local_files_only": not online, "dtype": torch.float32, "output_loading_info": True}
    try:
        model, report = AutoModel.from_pretrained(name, **options)
    except (OSError, ValueError) as error:
        raise _loading_error(name, online, error) from None
    # Fine-tuned models lack the weights that only pretraining needs, and no decoder is used here.
    needed = [key for key in report["missing_keys"] if not key.startswith("decoder.") and "mask" not in key]
    if needed:
        raise UserError(f"{name} lacks the weights {sorted(needed)[0]}: its config is of another model")
    return model.get_encoder() if config.is_encoder_decoder else model


def _loading_error(name: str, online: bool, error: Exception) -> UserError:
    reason = next((line for line in str(error).splitlines() if line), type(error).__name__)
    way_out = "without a network give a local folder instead" if online else "copy the model's folder again"
    return UserError(f"the teacher {name} cannot be loaded: {reason.rstrip('.')} ({way_out})")


def _standardises(name: str, config: Any, online: bool) -> bool:
    """Whether the preprocessor's config requires waves of zero mean and unit variance."""
    if config.model_type not in WAV2VEC2_KIND:
        return False
    from transformers import AutoFeatureExtractor

    try:
        return bool(AutoFeatureExtractor.from_pretrained(name, local_files_only=not online).do_normalize)
    except (OSError, ValueError):
        return True  # transformers' default for these architectures


def teacher_of(encoder: PreTrainedModel, *, standardise: bool = True) -> Teacher:
    """Build a teacher from a transformers encoder.

    ``standardise``: normalise waves to zero mean and unit variance, for wav2vec 2.0 and similar encoders.
    """
    config = encoder.config
    match config.model_type:
        case "moonshine":
            return moonshine_teacher(config.to_dict(), encoder.state_dict(), config.model_type)
        case "whisper":
            return Teacher(_Whisper(encoder), Framing(hop=320, offset=0, shortest=400), config.d_model)
    prepared = standardised if standardise else lambda wave: wave
    return Teacher(
        encoder,
        framing_of(config.conv_kernel, config.conv_stride),
        config.hidden_size,
        lambda network, wave: network(prepared(wave)[:, 0]).last_hidden_state,
    )


def speech_teacher(encoder: SpeechEncoder) -> Teacher:
    if encoder.sample_rate != SAMPLE_RATE:
        raise UserError(
            f"the speech encoder has a sample rate of {encoder.sample_rate} Hz: a teacher needs {SAMPLE_RATE}"
        )
    framing = framing_of(encoder.config.conv_kernels, encoder.config.conv_strides)
    return Teacher(encoder, framing, encoder.dim, lambda network, wave: network(wave).last)


def _student(student: Student) -> Teacher:
    """Build a teacher from a student's predictions of its own teacher's features, at the student's frames."""
    hop = student.encoder.hop

    def hidden(student: Student, wave: Wave) -> Hidden:
        whole_hops = wave[..., : wave.shape[-1] // hop * hop]
        return student.head(student(whole_hops)).transpose(1, 2)

    framing = Framing(hop=hop, offset=-student.look_ahead, shortest=hop)
    return Teacher(student, framing, student.config.teacher_dim, hidden)


class _Whisper(nn.Module):
    """Whisper's encoder on its own log-mels, without the padding to 30 s of the published model.

    Only as many positions are used as the wave has frames; with padding, one second would cost as much as 30.
    The features differ from those of the padded wave, most at its end.
    """

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.encoder = encoder
        self.mel = LogMel(
            MelConfig(
                sample_rate=SAMPLE_RATE,
                n_fft=400,
                win=400,
                hop=160,
                n_mels=encoder.config.num_mel_bins,
                power=2,
                magnitude_floor=0.0,
                log="log10",
                floor=1e-10,
                padding="center",
            )
        )

    def forward(self, wave: Wave) -> Hidden:
        encoder, most = self.encoder, self.encoder.config.max_source_positions
        if wave.shape[-1] > 320 * most:
            raise ValueError(f"Whisper's input is limited to {320 * most / SAMPLE_RATE:g} s")
        mel = self.mel(wave)[..., :-1]
        mel = (torch.maximum(mel, mel.amax((1, 2), keepdim=True) - 8.0) + 4.0) / 4.0
        x = F.gelu(encoder.conv2(F.gelu(encoder.conv1(mel)))).transpose(1, 2)
        x = x + encoder.embed_positions.weight[: x.shape[1]]
        for layer in encoder.layers:
            x = layer(x, None)
        return encoder.layer_norm(x)
