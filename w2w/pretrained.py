"""What of a converter begins from pretrained encoders, and how that is trained on: not, gently, or afresh."""

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
    """A content encoder to begin with, which a frozen speech encoder has taught: a run of
    ``pretrain/distil.py``, its export, or ``released``. The converter's takes its sizes."""
    pitch: str = free("")
    """A network that tracks F0: a run of ``pretrain/f0.py``, its export, ``released``, or ``released_ahead``,
    which hears 160 ms more; empty: a classical tracker. It is not trained on."""
    content: str = free("")
    """A speech encoder in the place of the content encoder's mels: a run of ``pretrain/data2vec.py``, its
    export, or a Data2VecAudio model of transformers; empty: mels. It needs whole utterances."""
    use: Use = "frozen"
    """What becomes of it: ``frozen``; ``fine_tuned``, trained on with a rate of its own; ``random``: only its
    sizes are taken, its weights are learned from nothing (the control)."""
    layer: int = 0
    """Its layer that is heard, counted from 1; 0: all, in a learned mixture."""
    style: str = free("")
    """Wav2CLIP's audio encoder that hears the voice: a run of ``pretrain/wav2clip.py``, its export, or the
    published file; empty: the style encoder hears mels alone."""
    style_use: Use = "fine_tuned"
    """What becomes of that."""
    rate: float = 0.2
    """Learning rate of what is fine-tuned, as a share of the converter's."""
    frozen_steps: int = 0
    """First steps in which what will be fine-tuned stays as it is, while the rest learns to listen to it."""

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
    """The converter that has room for the encoders: their sizes are read where their weights lie."""
    if pretrained.student:
        if converter.recogniser:
            raise UserError(
                "pretrained.student hears mels, in whose place converter.recogniser stands: set one of them"
                " to ''"
            )
        student = load_student(pretrained.student).config
        if student.sample_rate != converter.sample_rate or student.look_ahead_ms != converter.look_ahead_ms:
            raise UserError(
                f"{pretrained.student} was taught at {student.sample_rate} Hz with"
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
        # Batch-mates must not change a voice, and the way into CLIP's space is not taken.
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

        ears = network.content.get_submodule("trunk.encoder")
        if pretrained.use != "random":
            take(ears, load_speech_encoder(pretrained.content).state_dict(), pretrained.content)
        if pretrained.use == "frozen":
            ears.requires_grad_(False)
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
    """Fill a module from a state that may hold more: layers above the one heard, a way into another space."""
    own = module.state_dict()
    fill(module, {name: tensor for name, tensor in state.items() if name in own}, where)


def tuned(network: ConverterNetwork, pretrained: PretrainedConfig) -> list[nn.Parameter]:
    modules: list[nn.Module] = []
    if pretrained.content and pretrained.use == "fine_tuned":
        modules.append(network.content.get_submodule("trunk.encoder"))
    if network.style.audio is not None and pretrained.style and pretrained.style_use == "fine_tuned":
        modules.append(network.style.audio)
    return [p for module in modules for p in module.parameters() if p.requires_grad]


class GentlePlayer(Player):
    """A player some of whose parameters move by a share of the way, and not at all in the first updates.

    Adam's steps do not depend on the gradient's size, but a share of the step is that share of the rate.
    While they stay, their gradients are averaged already, so that their first step is no leap.
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
        """Take one step down, the gentle parameters a smaller one."""
        if not self.gentle:
            return super().step(loss, retain_graph=retain_graph)
        before = [parameter.detach().clone() for parameter in self.gentle]
        share = self.rate if self.updates >= self.frozen_updates else 0.0
        norm = super().step(loss, retain_graph=retain_graph)
        with torch.no_grad():
            torch._foreach_lerp_(self.gentle, before, 1.0 - share)
        return norm
