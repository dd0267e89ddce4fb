"""Pretrained encoders inside the converter: their sizes, weights, and whether they are trained on."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from engine.checkpoint import fill
from engine.config import free
from engine.contents import Contents, folder_contents
from engine.optim import OptimConfig, Player
from engine.user_error import UserError
from pretrain.causal.encoder import load_student
from pretrain.pitch.network import load_pitch_tracker
from w2w.networks.config import ConverterConfig, TrunkConfig
from w2w.networks.network import ConverterNetwork

Use = Literal["frozen", "fine_tuned", "random"]


@dataclass(frozen=True, kw_only=True)
class PretrainedConfig:
    """Pretrained encoders inside the converter."""

    student: str = free("")
    """Initial content encoder, distilled from a frozen speech encoder: a run of ``pretrain/distil.py``, its
    export, or ``released``; sets the content encoder's sizes. Empty: random weights."""
    pitch: str = free("")
    """F0 tracking network: a run of ``pretrain/f0.py``, its export, ``released``, or ``released_ahead``,
    which has 160 ms more look-ahead; empty: a classical tracker. It stays frozen."""
    content: str = free("")
    """Speech encoder that replaces the content encoder's mels: a run of ``pretrain/data2vec.py``, its export,
    or a Data2VecAudio model of transformers; empty: mels. It needs whole utterances."""
    use: Use = "frozen"
    """Training of the speech encoder: ``frozen``; ``fine_tuned``, at the reduced ``rate``; ``random``:
    trained from random weights at its sizes (the control)."""
    layer: int = 0
    """Layer of the speech encoder that is used, counted from 1; 0: a learned mixture of all layers."""
    style: str = free("")
    """Wav2CLIP's audio encoder as an additional input of the style encoder: a run of
    ``pretrain/wav2clip.py``, its export, or the published file; empty: only mels."""
    style_use: Use = "fine_tuned"
    """Training of Wav2CLIP's audio encoder, as in ``use``."""
    rate: float = 0.2
    """Learning rate of fine-tuned encoders, as a fraction of the converter's."""
    frozen_steps: int = 0
    """First steps in which fine-tuned encoders stay frozen while the rest of the converter adapts to them."""

    def __post_init__(self) -> None:
        if self.rate <= 0:
            raise UserError(
                f"pretrained.rate={self.rate} must be above 0; to leave weights alone, use frozen"
            )
        if self.student and self.content:
            raise UserError("pretrained.student and pretrained.content exclude each other: give one of them")
        if self.frozen_steps < 0 or self.layer < 0:
            raise UserError("pretrained.frozen_steps and pretrained.layer must be 0 or more")

    def contents(self) -> dict[str, Contents | None]:
        return {
            name: folder_contents(getattr(self, name), "an encoder")
            for name in ("student", "pitch", "content", "style")
        }


def with_encoders(converter: ConverterConfig, pretrained: PretrainedConfig) -> ConverterConfig:
    """Return the converter's configuration with the sizes of its pretrained encoders."""
    if pretrained.student:
        if converter.recogniser:
            raise UserError(
                "pretrained.student takes mels, which converter.recogniser replaces: set one of them to ''"
            )
        student = load_student(pretrained.student).config
        if student.sample_rate != converter.sample_rate or student.look_ahead_ms != converter.look_ahead_ms:
            raise UserError(
                f"{pretrained.student} was trained at {student.sample_rate} Hz with"
                f" {student.look_ahead_ms} ms of look-ahead: set converter.sample_rate and"
                " converter.look_ahead_ms to these, or distil another"
            )
        converter = replace(converter, content=student.encoder)
    if pretrained.pitch:
        converter = replace(converter, pitch=load_pitch_tracker(pretrained.pitch).config)
    if pretrained.content:
        from pretrain.speech.loading import load_speech_encoder

        theirs = load_speech_encoder(pretrained.content).config
        sizes = {f.name: getattr(theirs, f.name) for f in fields(TrunkConfig) if f.name != "layer"}
        trunk = TrunkConfig(**sizes, layer=pretrained.layer)
        if not pretrained.layer <= trunk.layers:
            raise UserError(
                f"pretrained.layer={pretrained.layer}: {pretrained.content} has {trunk.layers} layers"
            )
        converter = replace(converter, trunk=trunk)
    if pretrained.style:
        from pretrain.clip.loading import load_audio_encoder

        audio = load_audio_encoder("wav2clip", pretrained.style).config
        # A voice must not depend on its batch, and the projection to CLIP's space is not used.
        audio = replace(audio, normalisation="clip", transform=False, dim=audio.channels)
        converter = replace(converter, style=replace(converter.style, encoder="wav2clip", audio=audio))
    return converter


def begin(network: ConverterNetwork, pretrained: PretrainedConfig) -> ConverterNetwork:
    """Fill a converter's encoders with their pretrained weights and stop the gradient of frozen ones."""
    if pretrained.student:
        take(network.content, load_student(pretrained.student).encoder.state_dict(), pretrained.student)
    if pretrained.pitch:
        take(network.pitch, load_pitch_tracker(pretrained.pitch).state_dict(), pretrained.pitch)
    if pretrained.content:
        from pretrain.speech.loading import load_speech_encoder

        encoder = network.content.get_submodule("trunk.encoder")
        if pretrained.use != "random":
            take(encoder, load_speech_encoder(pretrained.content).state_dict(), pretrained.content)
        if pretrained.use == "frozen":
            encoder.requires_grad_(False)
    if pretrained.style:
        from pretrain.clip.loading import load_audio_encoder

        assert network.style.audio is not None
        if pretrained.style_use != "random":
            state = load_audio_encoder("wav2clip", pretrained.style).state_dict()
            take(network.style.audio, state, pretrained.style)
        if pretrained.style_use == "frozen":
            network.style.audio.requires_grad_(False)
    return network


def take(module: nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    """Fill a module from a state that may hold unused layers and projections, which are ignored."""
    names = module.state_dict()
    fill(module, {name: tensor for name, tensor in state.items() if name in names}, where)


def tuned(network: ConverterNetwork, pretrained: PretrainedConfig) -> list[nn.Parameter]:
    modules: list[nn.Module] = []
    if pretrained.content and pretrained.use == "fine_tuned":
        modules.append(network.content.get_submodule("trunk.encoder"))
    if network.style.audio is not None and pretrained.style and pretrained.style_use == "fine_tuned":
        modules.append(network.style.audio)
    return [p for module in modules for p in module.parameters() if p.requires_grad]


class GentlePlayer(Player):
    """A player with some parameters at a fraction of the learning rate, and frozen in the first updates.

    Scaling their gradients would not do, since Adam's steps do not depend on the gradient's scale; a fraction
    of the step is that fraction of the rate. While they are frozen, the optimiser already averages their
    gradients, so that their first step is not too large.
    """

    def __init__(
        self,
        modules: nn.Module | Iterable[nn.Module],
        config: OptimConfig,
        name: str,
        *,
        gentle: Iterable[nn.Parameter] = (),
        rate: float = 1.0,
        frozen_updates: int = 0,
    ) -> None:
        super().__init__(modules, config, name)
        self.gentle: list[Tensor] = list(gentle)
        self.rate, self.frozen_updates = rate, frozen_updates

    def step(self, loss: Float[Tensor, ""], *, retain_graph: bool = False) -> Float[Tensor, ""]:
        """Take one optimiser step, a smaller one for the gentle parameters."""
        if not self.gentle:
            return super().step(loss, retain_graph=retain_graph)
        before = [parameter.detach().clone() for parameter in self.gentle]
        share = self.rate if self.updates >= self.frozen_updates else 0.0
        norm = super().step(loss, retain_graph=retain_graph)
        with torch.no_grad():
            torch._foreach_lerp_(self.gentle, before, 1.0 - share)
        return norm
