"""Speech recognisers: Moonshine, pocketsphinx, transformers models and those trained here."""

from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from engine.config import stored_kind
from engine.hub import HUB
from engine.user_error import UserError
from eval.features import SAMPLE_RATE, SILENT, Features, Judge

PADDING = round(0.3 * SAMPLE_RATE)
"""Samples of silence padded to both ends of an utterance; without it Moonshine misses first words."""
TOKENS_PER_SECOND = 6.5
"""Upper limit on Moonshine's output, set by its publishers: on unclear speech it repeats itself."""
START, END = 1, 2
"""Moonshine's start and end tokens."""
SHIFT_SAMPLES = 53
"""Shift between pocketsphinx's decodings in samples, cut from the start: a third of a frame."""
INSTALL = "pip install 'timbre[eval]'"
Wave = Float[Tensor, "1 1 samples"]


@runtime_checkable
class Recogniser(Judge, Protocol):
    """A judge that returns ``texts`` (decodings of one recording) or ``phones`` as features."""

    @property
    def name(self) -> str:
        """Name in columns and reports."""
        ...

    @property
    def english_only(self) -> bool:
        """Whether only English texts may be compared with its output."""
        ...


def recogniser(name: str) -> Recogniser:
    """Return the recogniser ``moonshine``, ``pocketsphinx``, or that of a folder or ``hub:owner/name``."""
    match name:
        case "moonshine":
            return Moonshine()
        case "pocketsphinx":
            return Pocketsphinx()
        case _:
            return TrainedRecogniser(name)


@dataclass(frozen=True)
class Moonshine:
    """Moonshine tiny (Jeffries et al., 2024), decoded greedily in ONNX Runtime on one thread.

    Only the model files of the wheel ``moonshine-voice`` are used, as its library first splits recordings by
    voice activity detection. The weights are 8-bit, so scores differ in the last digits between processors
    with and without 8-bit instructions.
    """

    name: str = "moonshine"
    kind: str = "moonshine-tiny-en-1"
    english_only: bool = True

    def check(self) -> None:
        _moonshine()

    def __call__(self, wave: Wave) -> Features:
        if wave.abs().max() < SILENT:  # Moonshine transcribes silence as "you"
            return {"texts": np.array([""])}
        encoder, decoder, pieces = _moonshine()
        samples = np.pad(wave[0, 0].numpy(), PADDING)[None]
        mask = np.ones(samples.shape, np.int64)
        hidden = encoder.run(None, {"input_values": samples, "attention_mask": mask})[0]
        inputs: dict[str, np.ndarray] = {
            "encoder_hidden_states": hidden,
            "encoder_attention_mask": mask,
            "input_ids": np.array([[START]]),
            "use_cache_branch": np.array([False]),
        }
        layers = [node for node in decoder.get_inputs() if node.name.startswith("past_key_values")]
        inputs |= {node.name: np.zeros((1, node.shape[1], 0, node.shape[3]), np.float32) for node in layers}
        outputs = [node.name for node in decoder.get_outputs()]
        tokens = []
        while len(tokens) < TOKENS_PER_SECOND * samples.shape[-1] / SAMPLE_RATE:
            by_name = dict(zip(outputs, decoder.run(None, inputs)))
            token = int(by_name["logits"][0, -1].argmax())
            if token == END:
                break
            tokens.append(token)
            for node in layers:
                # Keys and values of the cross-attention are computed only at the first step.
                if ".decoder." in node.name or not inputs["use_cache_branch"]:
                    inputs[node.name] = by_name[node.name.replace("past_key_values", "present")]
            inputs |= {"input_ids": np.array([[token]]), "use_cache_branch": np.array([True])}
        text = b"".join(pieces[token] for token in tokens).decode("utf-8", "replace")
        return {"texts": np.array([text.replace("▁", " ").strip()])}


@dataclass(frozen=True)
class Pocketsphinx:
    """pocketsphinx with the English model of its wheel.

    It is unstable: a shift by a third of a frame changes a file's CER by some hundredths, so two decodings
    are averaged. Narrow beams and no second pass make it four times as fast, and raise the CER of
    natural speech by some hundredths.
    """

    name: str = "pocketsphinx"
    kind: str = "pocketsphinx-2-1"
    english_only: bool = True

    def check(self) -> None:
        _pocketsphinx()

    def __call__(self, wave: Wave) -> Features:
        decoder = _pocketsphinx()
        samples = (wave[0, 0].clamp(-1, 1).numpy() * 32767).round().astype("<i2")
        texts = []
        for shift in (0, SHIFT_SAMPLES):
            decoder.reinit_feat()  # resets the running mean, so that results do not depend on file order
            decoder.start_utt()
            decoder.process_raw(samples[shift:].tobytes(), full_utt=True)
            decoder.end_utt()
            hypothesis = decoder.hyp()
            texts.append(hypothesis.hypstr if hypothesis else "")
        return {"texts": np.array(texts)}


@dataclass(frozen=True)
class TrainedRecogniser:
    """A transformers model (CTC, Whisper, …) or a recogniser trained here, from a folder or the hub.

    One trained here may recognise phones instead of letters; an output's phones are then compared with the
    source's. Scores are too favourable for a converter that was trained with this recogniser as a loss.
    """

    place: str
    """Folder or ``hub:owner/name``."""
    english_only: bool = False

    @property
    def name(self) -> str:
        return Path(self.place.removeprefix(HUB)).resolve().name

    @property
    def kind(self) -> str:
        """Cache key; that of a folder changes with its weights file."""
        if self.place.startswith(HUB):
            return f"recogniser-{self.place.removeprefix(HUB).replace('/', '--')}-1"
        weights = next(iter(sorted(Path(self.place).glob("*.safetensors"))), None)
        stamp = f"-{weights.stat().st_size}-{weights.stat().st_mtime_ns}" if weights else ""
        return f"recogniser-{self.name}{stamp}-1"

    def check(self) -> None:
        _trained(self.place)

    def __call__(self, wave: Wave) -> Features:
        units, transcribe = _trained(self.place)
        if wave.abs().max() < SILENT:
            return {units: np.array([""])}
        with torch.inference_mode():
            return {units: np.array([transcribe(wave)])}


@lru_cache(maxsize=1)
def _moonshine() -> tuple[Any, Any, list[bytes]]:
    """Return Moonshine's encoder, decoder and the bytes of each token."""
    try:
        import onnxruntime
    except ImportError:
        raise UserError(f"the recogniser Moonshine needs onnxruntime: {INSTALL}") from None
    # Not imported: importing the package loads PortAudio, which servers lack.
    package = find_spec("moonshine_voice")
    folder = Path(package.origin).parent / "assets" / "tiny-en" if package and package.origin else None
    if folder is None or not folder.is_dir():
        raise UserError(
            "the recogniser Moonshine needs the package with its model: pip install moonshine-voice==0.0.49 "
            "(later versions lack the model), or give --recogniser pocketsphinx"
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    encoder, decoder = (
        onnxruntime.InferenceSession(str(folder / name), options, providers=["CPUExecutionProvider"])
        for name in ("encoder_model.ort", "decoder_model_merged.ort")
    )
    return encoder, decoder, _pieces((folder / "tokenizer.bin").read_bytes())


def _pieces(table: bytes) -> list[bytes]:
    """Parse the tokenizer's table of entries: length (7 bits per byte, the last below 128), then bytes."""
    pieces, at = [], 0
    while at < len(table):
        length = table[at]
        at += 1
        if length >= 128:
            length, at = length - 128 + 128 * table[at], at + 1
        pieces.append(table[at : at + length])
        at += length
    return pieces


@lru_cache(maxsize=1)
def _pocketsphinx() -> Any:
    try:
        from pocketsphinx import Decoder
    except ImportError:
        raise UserError(f"the recogniser pocketsphinx is not installed: {INSTALL}") from None
    return Decoder(samprate=SAMPLE_RATE, loglevel="FATAL", fwdflat=False, topn=2, maxhmmpf=3000, maxwpf=20)


@lru_cache(maxsize=2)
def _trained(place: str) -> tuple[Literal["texts", "phones"], Any]:
    if not place.startswith(HUB):
        description = Path(place) / "config.json"
        if not description.is_file():
            raise UserError(
                f"{place} holds no recogniser: it has no config.json; give moonshine, pocketsphinx, "
                f"the folder of a recogniser, or {HUB}owner/name"
            )
        if stored_kind(place) in ("speech_recogniser", "phone_recogniser"):
            from pretrain.recogniser import load_recogniser

            ours = load_recogniser(place)
            return "phones" if ours.units.between else "texts", lambda wave: ours.transcribe(wave)[0]
    from transformers import pipeline

    try:
        model: Any = pipeline("automatic-speech-recognition", model=place.removeprefix(HUB))
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).split("\n")[0].rstrip(".")
        raise UserError(
            f"{place} holds no usable recogniser ({reason}): give another, moonshine or pocketsphinx"
        ) from None
    return "texts", lambda wave: model({"raw": wave[0, 0].numpy(), "sampling_rate": SAMPLE_RATE})["text"]
