"""Published encoders that may stand beside ours when their weights are given: CLAP, YamNet, OpenL3."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from data.frontends import LogMel, MelConfig
from engine.user_error import UserError

INSTALL_ONNX = "needs onnxruntime: pip install onnxruntime"
OPENL3_RATE, OPENL3_HOP = 48_000, 24_000
"""Hz, and samples between its windows of one second."""
OPENL3_RANGE_DB = 80.0
"""Below the loudest cell of a window, where its mel is clipped."""


def open_comparison(
    name: Literal["clap", "yamnet", "openl3"], place: str, device: str = "cpu"
) -> "CLAP | YamNet | OpenL3File | OpenL3Package":
    """Open one of the three by name."""
    if name == "clap":
        return CLAP(place, device)
    if name == "yamnet":
        return YamNet(place)
    return OpenL3File(place) if place else OpenL3Package(device)


class CLAP:
    """Contrastive language-audio pretraining (Wu et al., 2023) by transformers: 48 kHz, and captions too."""

    def __init__(self, place: str, device: str = "cpu") -> None:
        from transformers import AutoProcessor, ClapModel

        try:
            model: Any = ClapModel.from_pretrained(place)
            self.processor: Any = AutoProcessor.from_pretrained(place)
        except (OSError, ValueError) as error:
            detail = str(error).strip().splitlines()[0][:160]
            raise UserError(
                f"--encoder clap:{place} cannot be opened ({detail}): give a local folder with the model and "
                "its processor, or a hub id where there is a network"
            ) from None
        self.model, self.device = model.eval().requires_grad_(False).to(device), device
        self.name, self.sample_rate = "clap", int(self.processor.feature_extractor.sampling_rate)
        self.dim = int(model.config.projection_dim)

    @torch.no_grad()
    def embed(self, wave: Float[Tensor, "batch 1 samples"]) -> Float[Tensor, "batch dim"]:
        clips = list(wave[:, 0].numpy())
        inputs = self.processor.feature_extractor(clips, sampling_rate=self.sample_rate, return_tensors="pt")
        return _vectors(self.model.get_audio_features(**inputs.to(self.device)))

    @torch.no_grad()
    def texts(self, captions: list[str]) -> Float[Tensor, "captions dim"]:
        """Captions' vectors in the same space, of unit length."""
        inputs = self.processor.tokenizer(captions, padding=True, return_tensors="pt").to(self.device)
        return F.normalize(_vectors(self.model.get_text_features(**inputs)), dim=-1)


class YamNet:
    """YamNet as an ONNX file: a 16 kHz wave in, a vector of 1024 each half second out; their mean.

    The file is the published model's export: one input of shape (samples,) between -1 and 1, and among its
    outputs the embeddings (frames, 1024).
    """

    name, dim, sample_rate = "yamnet", 1024, 16_000
    least_samples = 15_600
    """One patch of 0.975 s; shorter clips are repeated."""

    def __init__(self, place: str) -> None:
        self.session = _session(place, "yamnet")
        self.input = self.session.get_inputs()[0]

    def embed(self, wave: Float[Tensor, "batch 1 samples"]) -> Float[Tensor, "batch dim"]:
        return torch.stack([self._one(clip[0].numpy()) for clip in wave])

    def _one(self, clip: np.ndarray) -> Tensor:
        clip = np.resize(clip, max(len(clip), self.least_samples)).astype(np.float32)
        feed = clip if len(self.input.shape) == 1 else clip[None]
        outputs = self.session.run(None, {self.input.name: feed})
        found = [out.reshape(-1, self.dim) for out in outputs if out.shape[-1] == self.dim]
        if not found:
            shapes = ", ".join(str(out.shape) for out in outputs)
            raise UserError(
                f"the YamNet file gives no embeddings (…, {self.dim}), only {shapes}: export them too"
            )
        return torch.from_numpy(found[0].mean(0))


class OpenL3File:
    """OpenL3 (Cramer et al., 2019) as an ONNX file: a second at 48 kHz, every half second; their mean.

    An input of rank 3 takes waves (windows, 1, 48000); of rank 4 mels in decibels (windows, mels, 199, 1).
    """

    sample_rate = OPENL3_RATE

    def __init__(self, place: str) -> None:
        self.name, self.session = "openl3", _session(place, "openl3")
        self.input = self.session.get_inputs()[0]
        size = self.session.get_outputs()[0].shape[-1]
        rank = len(self.input.shape)
        if (
            rank not in (3, 4)
            or not isinstance(size, int)
            or (rank == 4 and self.input.shape[1] not in (128, 256))
        ):
            raise UserError(
                f"{place} is no OpenL3 model of waves (windows, 1, 48000) or of mels "
                f"(windows, 128 or 256, 199, 1): its input is {self.input.shape}, its output ends in {size}"
            )
        self.dim, self.mel = size, None
        if rank == 4:
            bands = {"n_mels": self.input.shape[1], "f_max": OPENL3_RATE / 2, "scale": "htk"}
            frames = {"n_fft": 2048, "win": 2048, "hop": 242, "padding": "center", "pad_mode": "constant"}
            self.mel = LogMel(MelConfig(sample_rate=OPENL3_RATE, floor=1e-10, log="log10", **bands, **frames))

    def embed(self, wave: Float[Tensor, "batch 1 samples"]) -> Float[Tensor, "batch dim"]:
        return torch.stack([self._one(clip) for clip in wave])

    def _one(self, clip: Float[Tensor, "1 samples"]) -> Float[Tensor, "dim"]:
        windows = F.pad(clip, (0, max(OPENL3_RATE - clip.shape[-1], 0))).unfold(-1, OPENL3_RATE, OPENL3_HOP)
        feed = windows.transpose(0, 1)  # (windows, 1, samples)
        if self.mel is not None:
            level = 10 * self.mel(feed)
            level = (level - level.amax((1, 2), keepdim=True)).clamp_min(-OPENL3_RANGE_DB)
            feed = level[..., None]
        (out, *_) = self.session.run(None, {self.input.name: feed.contiguous().numpy()})
        return torch.from_numpy(out.reshape(len(feed), -1).mean(0))


class OpenL3Package:
    """OpenL3 by the package torchopenl3, which brings its weights: environmental sounds, 512 numbers."""

    sample_rate, dim, name = OPENL3_RATE, 512, "openl3"

    def __init__(self, device: str = "cpu") -> None:
        try:
            import torchopenl3  # pyright: ignore[reportMissingImports]
        except ImportError:
            raise UserError(
                "--encoder openl3 needs torchopenl3 (pip install torchopenl3), or a file: openl3:FILE.onnx"
            ) from None
        self.package: Any = torchopenl3
        load = torchopenl3.models.load_audio_embedding_model
        self.model = load(input_repr="mel256", content_type="env", embedding_size=self.dim).to(device)

    @torch.no_grad()
    def embed(self, wave: Float[Tensor, "batch 1 samples"]) -> Float[Tensor, "batch dim"]:
        get = self.package.get_audio_embedding
        vectors, _ = get(wave[:, 0], self.sample_rate, model=self.model, hop_size=0.5)
        return vectors.mean(1).float().cpu()


def _session(place: str, name: str) -> Any:
    path = Path(place)
    if not path.is_file():
        raise UserError(f"--encoder {name}:{place}: there is no such ONNX file")
    try:
        import onnxruntime
    except ImportError:
        raise UserError(f"--encoder {name} {INSTALL_ONNX}") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own kinds share no base but this
        detail = str(error).strip().splitlines()[0][:160]
        raise UserError(f"{path} is not an ONNX model that onnxruntime can open ({detail})") from None


def _vectors(found: Any) -> Tensor:
    """Newer transformers wrap the projected vectors."""
    return (found if isinstance(found, Tensor) else found.pooler_output).float().cpu()
