"""The pitch tracker of a few frames, in float64 like the plain one, without Fourier transforms.

A frame's correlations are sums over 400 samples (at 16 kHz) for some 220 lags. The samples, laid out in rows
of ``ROW``, meet rows that begin ``ROW`` apart and are as long as all lags: one product, whose skew diagonals
are summed.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from w2w.networks.pitch import (
    BINS_PER_OCTAVE,
    DECAY,
    FORGET,
    HUSH,
    QUIET,
    REACH,
    RESTART,
    VOICED,
    PitchTracker,
)

Double = Float[Tensor, "..."]
State = dict[str, Tensor]
ROW = 8
"""Samples side by side in the layout that correlates them."""
_NUMBERS = {
    "forget": FORGET,
    "restart": RESTART,
    "decay": DECAY,
    "quiet": QUIET,
    "hush": HUSH,
    "voiced": VOICED,
    "slack": 1e-9,
    "bend": -1e-6,
    "floor": 1e-6,
    "bin": math.log(2.0) / BINS_PER_OCTAVE,
}


class Tracking(nn.Module):
    """Log-F0 and voicing of ``n_frames`` frames."""

    fraction: Tensor
    bias: Tensor
    log_f0: Tensor
    reach: Tensor
    walls: Tensor
    jump: Tensor
    beside: Tensor
    filter_places: Tensor
    filter_band: Tensor
    row_places: Tensor
    skew: Tensor
    sum_starts: Tensor
    sum_ends: Tensor
    frame_starts: Tensor
    frame_ends: Tensor
    forget: Tensor
    restart: Tensor
    decay: Tensor
    quiet: Tensor
    hush: Tensor
    voiced: Tensor
    slack: Tensor
    bend: Tensor
    floor: Tensor
    bin: Tensor

    def __init__(self, tracker: PitchTracker, n_frames: int) -> None:
        super().__init__()
        self.n_frames, self.hop, self.width = n_frames, tracker.hop, tracker.width
        self.longest, self.window = tracker.longest, tracker.window
        self.n_taps, self.n_bins = tracker.lowpass.shape[-1], len(tracker.log_f0)
        self.wave_context = self.n_taps - 1
        lags = torch.cat([tracker.low_lag, tracker.low_lag + 1])
        self._lay_out_filter(tracker.lowpass[0, 0])
        self._lay_out_correlation(lags)
        self._keep("fraction", tracker.fraction)
        self._keep("bias", tracker.bias)
        self._keep("log_f0", tracker.log_f0)
        # The score before, with walls on both sides, seen from each bin.
        self._keep("reach", torch.arange(self.n_bins)[:, None] + torch.arange(2 * REACH + 1))
        self._keep("walls", torch.full((REACH,), -10.0, dtype=torch.float64))
        self._keep("jump", tracker.jump)
        # As tensors: exporters may write a Python number down in float32, and tracks would part by and by.
        for name, number in _NUMBERS.items():
            self._keep(name, torch.tensor([number], dtype=torch.float64))
        self._keep("beside", torch.arange(-2, 3)[None])
        begun = tracker.begin(1)
        self.begun: State = {
            "low_passed": torch.zeros(self.window - self.hop, dtype=torch.float64),
            "score": begun.score[0],
            "held_log_f0": begun.held[0],
            "loudest": begun.loudest[0],
        }

    def _keep(self, name: str, tensor: Tensor) -> None:
        self.register_buffer(name, tensor.clone())

    def _lay_out_filter(self, taps: Tensor) -> None:
        row = 20  # hops are multiples of 80 samples
        n_rows = self.n_frames * self.hop // row
        wide = row + self.n_taps - 1
        self._keep("filter_places", (torch.arange(n_rows)[:, None] * row + torch.arange(wide)).flatten())
        self.filter_shape = (n_rows, wide)
        band = torch.zeros(wide, row, dtype=torch.float64)
        for sample in range(row):
            band[sample : sample + self.n_taps, sample] = taps
        self._keep("filter_band", band)

    def _lay_out_correlation(self, lags: Tensor) -> None:
        n_samples = self.window + (self.n_frames - 1) * self.hop
        self.most = int(lags.max())
        # Whole rows before and after each row of the newest samples.
        self.n_before = -(-self.most // ROW)
        offset = self.longest - self.n_before * ROW
        self.offset = max(offset, 0)
        self.pad = max(-offset, 0)
        n_rows = (n_samples - self.longest) // ROW
        wide = self.n_before + 1
        self.wide = wide * ROW
        self._keep("row_places", (torch.arange(n_rows)[:, None] + torch.arange(wide)).flatten())
        self.n_rows = n_rows
        # Sample j of a row, times the one `lag` earlier, stands in column before + j - lag.
        j = torch.arange(ROW)
        skew = j * self.wide + self.n_before * ROW + j - lags[:, None]
        self._keep("skew", skew.flatten())
        starts = torch.arange(self.n_frames) * self.hop
        first = starts[:, None] + self.longest - torch.cat([lags, lags.new_zeros(1)])
        self._keep("sum_starts", first.flatten())
        self._keep("sum_ends", (first + self.width).flatten())
        self._keep("frame_starts", starts)
        self._keep("frame_ends", starts + self.window)

    def forward(
        self, heard: Float[Tensor, " heard"], state: State
    ) -> tuple[Float[Tensor, " frames"], Float[Tensor, " frames"], State]:
        """Log-F0, voicing and the next state; ``heard`` is the chunk with the filter's context before it."""
        low_passed = torch.cat([state["low_passed"], self._filtered(heard.double())])
        salience, power = self._salience(low_passed)
        loudest, score, held = state["loudest"], state["score"], state["held_log_f0"]
        loudest_all, scores = [], []
        for now in power.split(1):
            loudest = torch.maximum(torch.maximum(loudest * self.decay, self.quiet), now)
            loudest_all.append(loudest)
        salience = salience * (power / (power + self.hush * torch.cat(loudest_all)))[:, None]
        for now in salience.split(1):
            padded = torch.cat([self.walls, score, self.walls])
            arrived = (padded.index_select(0, self.reach.flatten()).view(self.reach.shape) - self.jump).amax(
                1
            )
            fresh = score.amax(0, keepdim=True) - self.restart
            score = now[0] + self.forget * torch.maximum(arrived, fresh)
            scores.append(score)
        best = (torch.stack(scores) + self.bias).argmax(1, keepdim=True)
        refined, voicing = self._read(salience, best)
        curve = []
        for known, value in zip(voicing.split(1), refined.split(1)):
            held = torch.where(known > 0.5, value, held)
            curve.append(held)
        after = {
            "low_passed": low_passed[self.n_frames * self.hop :],
            "score": score,
            "held_log_f0": held,
            "loudest": loudest,
        }
        return torch.cat(curve), voicing, after

    def _filtered(self, heard: Float[Tensor, " heard"]) -> Float[Tensor, " samples"]:
        rows = heard.index_select(0, self.filter_places).view(self.filter_shape)
        return torch.mm(rows, self.filter_band).flatten()

    def _salience(self, wave: Float[Tensor, " samples"]) -> tuple[Double, Double]:
        """Normalised correlation at every bin, and mean power."""
        n, rows_apart, rows_each = self.n_bins, self.hop // ROW, self.width // ROW
        if self.pad:
            wave = F.pad(wave, (self.pad, 0))
        rows = wave[self.offset :].view(-1, ROW)
        lagged = rows.index_select(0, self.row_places).view(self.n_rows, self.wide)
        newest = rows[self.n_before :].T
        raw = []
        for frame in range(self.n_frames):
            part = slice(frame * rows_apart, frame * rows_apart + rows_each)
            raw.append(torch.mm(newest[:, part], lagged[part]).flatten())
        raw = torch.stack(raw).index_select(1, self.skew).view(self.n_frames, -1, ROW).sum(2)
        if self.pad:
            wave = wave[self.pad :]
        sums = F.pad(torch.stack([wave, wave * wave]).cumsum(1), (1, 0))
        shape = (2, self.n_frames, 2 * n + 1)
        apart = sums.index_select(1, self.sum_ends) - sums.index_select(1, self.sum_starts)
        plain, squared = apart.view(shape).unbind(0)
        mean = sums[:1].index_select(1, self.frame_ends) - sums[:1].index_select(1, self.frame_starts)
        mean = mean.view(-1, 1) / self.window
        square = self.width * (mean * mean)
        energy = (squared - 2.0 * mean * plain + square).clamp_min(0.0)
        product = raw - mean * (plain[:, -1:] + plain[:, :-1]) + square
        scale = torch.sqrt(energy[:, -1:] * energy[:, :-1]) + self.floor * self.width
        low, high = (product / scale).chunk(2, dim=1)
        return low + self.fraction * (high - low), energy[:, -1] / self.width

    def _read(
        self, salience: Float[Tensor, "frames bins"], best: Tensor
    ) -> tuple[Float[Tensor, " frames"], Float[Tensor, " frames"]]:
        """Log-F0 at the summit by the best bin, and how sure that is."""
        last = self.n_bins - 1
        around = (best + self.beside).clamp(0, last)
        values = salience.gather(1, around)
        raised = values + self.slack
        places = best + self.beside
        inner = (places >= 1) & (places <= last - 1)
        peak = [
            (raised[:, i] >= values[:, i - 1]) & (raised[:, i] >= values[:, i + 1]) & inner[:, i]
            for i in (1, 2, 3)
        ]
        summit = (peak[0] | peak[1] | peak[2]).double()
        voicing = torch.sigmoid((values[:, 2] * summit - self.voiced) * 20.0)
        middle = best.clamp(1, last - 1)
        left, centre, right = salience.gather(1, middle + self.beside[:, 1:4]).unbind(1)
        bend = left - 2 * centre + right
        shift = torch.where(bend < self.bend, 0.5 * (left - right) / bend, torch.zeros_like(bend)).clamp(
            -0.5, 0.5
        )
        return self.log_f0.index_select(0, middle[:, 0]) + shift * self.bin, voicing
