"""Where crops of a recording begin: not in silence if that can be had, and two of them apart."""

import numpy as np

from data.recordings import Recordings

DRAWS = 6
"""Positions tried before the loudest is taken though below the floor."""
Places = list[tuple[int, int]]
"""Ranges of samples at which a crop may begin, both ends included; one that ends before it begins
is empty."""


def loud_crop(
    rng: np.random.Generator,
    recordings: Recordings,
    index: int,
    samples: int,
    places: Places,
    silence_db: float,
) -> tuple[np.ndarray, int]:
    """Draw a crop of a row beginning in ``places``, not below ``silence_db`` (RMS) if that can be had.

    Returns its samples and the one it begins at. Raises ``AudioError`` if the file has become unreadable.
    """
    places = [(first, last) for first, last in places if first <= last]
    # A recording shorter than the crop is repeated, from any of its samples on.
    places = places or [(0, int(recordings.lengths[index]) - 1)]
    floor, best, best_start, best_power = 10 ** (silence_db / 10), None, 0, -1.0
    for _ in range(DRAWS):
        draw = int(rng.integers(sum(last - first + 1 for first, last in places)))
        for first, last in places:
            if draw <= last - first:
                break
            draw -= last - first + 1
        crop = recordings.read(index, first + draw, samples)
        power = float(np.square(crop).mean())
        if power > best_power:
            best, best_start, best_power = crop, first + draw, power
        if power >= floor:
            break
    assert best is not None
    return best, best_start


def leaving_room(n_samples: int, samples: int, reference_samples: int) -> Places:
    """Where a crop may begin so that another of the same recording fits beside it, if it is long enough."""
    room = n_samples - samples - reference_samples
    if 0 <= room < reference_samples:  # in the middle, the crop would leave no side long enough
        return [(0, room), (reference_samples, n_samples - samples)]
    return [(0, n_samples - samples)]


def apart_from(start: int, n_samples: int, samples: int, reference_samples: int) -> Places:
    """Where the other crop may begin without overlap, or with as little as a short recording allows."""
    if n_samples >= samples + reference_samples:
        return [(0, start - reference_samples), (start + samples, n_samples - reference_samples)]
    if n_samples < reference_samples:
        return []
    far = 0 if 2 * start > n_samples - samples else n_samples - reference_samples
    return [(far, far)]
