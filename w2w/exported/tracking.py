"""The pitch tracker of a few frames, in float64 like the plain one, without Fourier transforms.

A frame's correlations are sums over 400 samples (at 16 kHz) for some 220 lags. The samples, laid out in rows,
meet rows that begin as far apart and are as long as all lags: one product, whose skew diagonals are summed.
What lies askew is read by giving a tensor rows longer by one: nothing is gathered number by number.
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
ROWS = (20, 16, 10, 8, 5, 4, 2, 1)
"""Lengths of rows: the first that divides hop and correlated stretch is taken."""


class Tracking(nn.Module):
    """Log-F0 and voicing of ``n_frames`` frames."""

    fraction: Tensor
    bias: Tensor
    log_f0: Tensor
    walls: Tensor
    jump: Tensor
    filter_places: Tensor
    row_places: Tensor
    of_lags: Tensor
    sum_starts: Tensor
    sum_ends: Tensor
    places: Tensor
    filter_band: Tensor

    def __init__(self, tracker: PitchTracker, n_frames: int) -> None:
        super().__init__()
        self.n_frames, self.hop, self.width = n_frames, tracker.hop, tracker.width
        self.longest, self.window = tracker.longest, tracker.window
        self.n_taps, self.n_bins = tracker.lowpass.shape[-1], len(tracker.log_f0)
        self.wave_context = self.n_taps - 1
        self.row = next(row for row in ROWS if self.hop % row == 0 and self.width % row == 0)
        lags = torch.cat([tracker.low_lag, tracker.low_lag + 1])
        self._lay_out_filter(tracker.lowpass[0, 0])
        self._lay_out_correlation(lags)
        self._keep("fraction", tracker.fraction)
        self._keep("bias", tracker.bias)
        self._keep("log_f0", tracker.log_f0)
        self._keep("walls", torch.full((REACH,), -10.0, dtype=torch.float64))
        self._keep("jump", tracker.jump[:, None])
        self._keep("places", torch.arange(5)[None])
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
        row = self.row
        n_rows = self.n_frames * self.hop // row
        wide = row + self.n_taps - 1
        self._keep("filter_places", (torch.arange(n_rows)[:, None] * row + torch.arange(wide)).flatten())
        self.filter_shape = (n_rows, wide)
        band = torch.zeros(wide, row, dtype=torch.float64)
        for sample in range(row):
            band[sample : sample + self.n_taps, sample] = taps
        self._keep("filter_band", band)

    def _lay_out_correlation(self, lags: Tensor) -> None:
        row, n_newest = self.row, self.width + (self.n_frames - 1) * self.hop
        # Whole rows before each row of the newest samples; silence stands in for what the window lacks.
        self.n_before = -(-int(lags.max()) // row)
        self.pad = max(self.n_before * row - self.longest, 0)
        self.offset = self.longest + self.pad - self.n_before * row
        self.n_rows, self.n_wide = n_newest // row, self.n_before + 1
        places = torch.arange(self.n_rows)[:, None] + torch.arange(self.n_wide)
        self._keep("row_places", places.flatten())
        # Sample j of a row, times the one `lag` earlier, stands in column before + j - lag.
        self._keep("of_lags", self.n_before * row - lags)
        first = self.longest - torch.cat([lags, lags.new_zeros(1)])
        first = (torch.arange(self.n_frames)[:, None] * self.hop + first).flatten()
        starts = torch.arange(self.n_frames) * self.hop
        self._keep("sum_starts", torch.cat([first, starts]))
        self._keep("sum_ends", torch.cat([first + self.width, starts + self.window]))

    def forward(
        self, heard: Float[Tensor, " heard"], state: State
    ) -> tuple[Float[Tensor, " frames"], Float[Tensor, " frames"], State]:
        """Log-F0, voicing and the next state; ``heard`` is the chunk with the filter's context before it."""
        low_passed = torch.cat([state["low_passed"], self._filtered(heard.double())])
        salience, power = self._salience(low_passed)
        loudest, score, held = state["loudest"], state["score"], state["held_log_f0"]
        loudest_all, scores = [], []
        for now in power.split(1):
            loudest = torch.maximum((loudest * DECAY).clamp_min(QUIET), now)
            loudest_all.append(loudest)
        salience = salience * (power / (power + HUSH * torch.cat(loudest_all)))[:, None]
        for now in salience.split(1):
            # Row d of the skew rows is the score, with walls on both sides, from bin d - REACH on.
            padded = torch.cat([self.walls, score, self.walls])
            n_rows, wide = len(self.jump), len(padded) + 1
            skew = padded.expand(n_rows + 1, -1).reshape(-1)[: n_rows * wide].view(n_rows, wide)
            arrived = (skew - self.jump).amax(0)[: self.n_bins]
            fresh = score.amax(0, keepdim=True) - RESTART
            score = now[0] + FORGET * torch.maximum(arrived, fresh)
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
        n, n_frames, row = self.n_bins, self.n_frames, self.row
        padded = F.pad(wave, (self.pad, 0)) if self.pad else wave
        rows = padded[self.offset :].view(-1, row)
        lagged = rows.index_select(0, self.row_places).view(self.n_rows, -1)
        newest, products = rows[self.n_before :].T, []
        for first in range(0, n_frames * self.hop // row, self.hop // row):
            part = slice(first, first + self.width // row)
            products.append(torch.mm(newest[:, part], lagged[part]).flatten())
        skew = F.pad(torch.stack(products), (0, row)).view(n_frames, row, -1)
        raw = skew.sum(1).index_select(1, self.of_lags)
        sums = F.pad(torch.stack([wave, wave * wave]).cumsum(1), (1, 0))
        apart = sums.index_select(1, self.sum_ends) - sums.index_select(1, self.sum_starts)
        both, whole = apart.split([n_frames * (2 * n + 1), n_frames], dim=1)
        plain, squared = both.view(2, n_frames, -1).unbind(0)
        mean = whole[0][:, None] / self.window
        square = self.width * (mean * mean)
        energy = (squared - 2.0 * mean * plain + square).clamp_min(0.0)
        product = raw - mean * (plain[:, -1:] + plain[:, :-1]) + square
        scale = torch.sqrt(energy[:, -1:] * energy[:, :-1]) + 1e-6 * self.width
        low, high = (product / scale).chunk(2, dim=1)
        return low + self.fraction * (high - low), energy[:, -1] / self.width

    def _read(
        self, salience: Float[Tensor, "frames bins"], best: Tensor
    ) -> tuple[Float[Tensor, " frames"], Float[Tensor, " frames"]]:
        """Log-F0 at the summit by the best bin, and how sure that is."""
        # Beyond the bins stands what no comparison holds for: neither they nor the outermost are summits.
        fenced = F.pad(salience, (2, 2), value=math.nan)
        values = fenced.gather(1, best + self.places)
        raised = values[:, 1:4] + 1e-9
        peaks = (raised >= values[:, :3]) & (raised >= values[:, 2:])
        strength = values[:, 2] * peaks.double().amax(1)
        voicing = torch.sigmoid((strength - VOICED) * 20.0)
        middle = best.clamp(1, self.n_bins - 2)
        left, centre, right = salience.gather(1, middle + self.places[:, :3] - 1).unbind(1)
        bend = left - 2.0 * centre + right
        shift = torch.where(bend < -1e-6, 0.5 * (left - right) / bend, torch.zeros_like(bend))
        shift = shift.clamp(-0.5, 0.5) * (math.log(2.0) / BINS_PER_OCTAVE)
        return self.log_f0.index_select(0, middle[:, 0]) + shift, voicing
