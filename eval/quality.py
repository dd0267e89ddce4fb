"""Speech quality predicted by DNSMOS (P.835 ratings of speech, background and overall, 1 to 5)."""

import warnings
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from engine.user_error import UserError
from eval.features import Features

SAMPLE_RATE = 16_000
WINDOW = int(9.01 * SAMPLE_RATE)
"""Input length of the network; shorter recordings are repeated, as in the published script."""
HOP = 3 * SAMPLE_RATE
"""Samples between windows. The published 1 s covers a short recording's repetitions up to eight times; 3 s
change a recording's score by .01, in either direction, at less than half the cost."""
POLYNOMIALS = {
    "speech": (-0.08397278, 1.22083953, 0.0052439),
    "background": (-0.13166888, 1.60915514, -0.39604546),
    "overall": (-0.06766283, 1.11546468, 0.04602535),
}
"""Map the network's outputs, in this order, to opinion scores (the published, not personalised, fit)."""


@dataclass(frozen=True)
class DNSMOS:
    """Microsoft's DNSMOS P.835 network from the package speechmos, on one thread."""

    kind: str = "dnsmos-p835-2"

    def check(self) -> None:
        _session()

    def __call__(self, wave: Float[Tensor, "1 1 samples"]) -> Features:
        samples = wave[0, 0].clamp(-1, 1).numpy()
        while len(samples) < WINDOW:
            samples = np.concatenate([samples, samples])
        # As published, which omits the last whole window.
        n_windows = int(len(samples) // SAMPLE_RATE - WINDOW / SAMPLE_RATE) + 1
        starts = range(0, max(1, n_windows) * SAMPLE_RATE, HOP)
        raw = [_session().run(None, {"input_1": samples[None, s : s + WINDOW]})[0][0] for s in starts]
        mean = {
            name: np.mean([np.polyval(polynomial, scores[i]) for scores in raw])
            for i, (name, polynomial) in enumerate(POLYNOMIALS.items())
        }
        return {name: np.asarray(value) for name, value in mean.items()}


def opinions(features: Features) -> dict[str, float]:
    return {
        "dnsmos": float(features["overall"]),
        "dnsmos_speech": float(features["speech"]),
        "dnsmos_background": float(features["background"]),
    }


@lru_cache(maxsize=1)
def _session() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import onnxruntime
            import speechmos
    except ImportError as error:
        raise UserError(
            f"quality needs speechmos and onnxruntime ({error}): pip install 'timbre[eval]'"
        ) from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    network = Path(speechmos.__path__[0]) / "dnsmos_models" / "sig_bak_ovr.onnx"
    return onnxruntime.InferenceSession(str(network), options, providers=["CPUExecutionProvider"])
