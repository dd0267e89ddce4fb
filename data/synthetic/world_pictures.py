"""Pictures of the audio-visual world: shapes on a patterned background, drawn by signed distances."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int, UInt8

PICTURE_SIZE = 64
"""Width and height in pixels."""
CELL = PICTURE_SIZE // 2
"""Size in pixels of the cells for shapes, in a grid of 2 × 2."""
RADII = np.array([6.5, 9.5, 13.0])
"""Radii in pixels of small, medium and large shapes."""
COLOURS = np.array(
    [
        [0.86, 0.10, 0.12],  # red
        [0.98, 0.55, 0.05],  # orange
        [0.96, 0.92, 0.15],  # yellow
        [0.12, 0.70, 0.20],  # green
        [0.10, 0.30, 0.92],  # blue
        [0.62, 0.15, 0.80],  # purple
    ]
)
N_DRAWN = 40
"""Random numbers per picture."""

Field = Float[np.ndarray, "n height width"]


def draw(values: Int[np.ndarray, "n 5"], chance: Float[np.ndarray, "n 40"]) -> UInt8[np.ndarray, "n 3 h w"]:
    """Draw pictures of scenes; ``chance``, uniform in [0, 1), determines what the values do not.

    That is: the cells of the shapes; their position, exact size, rotation and colour; and lightness,
    contrast, phase and direction of the background.
    """
    shape, colour, size, count, background = values.T
    n = len(values)
    level = _ground(background, chance[:, :6])
    picture = np.repeat(level[:, None], 3, axis=1)
    colour_mix = COLOURS[colour] + 0.10 * (chance[:, 6:9] - 0.5)
    colour_mix = np.clip(colour_mix * (0.85 + 0.25 * chance[:, 9:10]), 0, 1)
    filled = np.argsort(chance[:, 10:14], axis=1)  # cells in the order of the shapes
    for number in range(4):
        rows = np.flatnonzero(count >= number)
        if not len(rows):
            continue
        chances = chance[rows, 14 + 5 * number : 19 + 5 * number]
        radius = RADII[size[rows]] * (0.95 + 0.10 * chances[:, 0])
        slack = CELL / 2 - radius
        centre = (chances[:, 1:3] * 2 - 1) * np.maximum(slack, 1.0)[:, None]
        angle = (chances[:, 3] - 0.5) * 0.4
        cover = _cover(shape[rows], radius, centre, angle)[:, None]
        top, left = CELL * (filled[rows, number] // 2), CELL * (filled[rows, number] % 2)
        ys = top[:, None, None, None] + np.arange(CELL)[None, None, :, None]
        xs = left[:, None, None, None] + np.arange(CELL)[None, None, None, :]
        at = (rows[:, None, None, None], np.arange(3)[None, :, None, None], ys, xs)
        picture[at] = picture[at] * (1 - cover) + colour_mix[rows][:, :, None, None] * cover
    assert picture.shape == (n, 3, PICTURE_SIZE, PICTURE_SIZE)
    return np.rint(np.clip(picture, 0, 1) * 255).astype(np.uint8)


def _ground(background: np.ndarray, chance: np.ndarray) -> Field:
    y, x = np.mgrid[:PICTURE_SIZE, :PICTURE_SIZE].astype(np.float32)
    lightness = (0.25 + 0.5 * chance[:, 0]).astype(np.float32)[:, None, None]
    contrast = (0.14 + 0.08 * chance[:, 1]).astype(np.float32)[:, None, None]
    contrast = contrast * np.where(chance[:, 2] < 0.5, -1, 1).astype(np.float32)[:, None, None]
    period = 8.0
    shift = (chance[:, 3:5] * period).astype(np.float32)[:, :, None, None]
    turn = (chance[:, 5] * np.pi).astype(np.float32)[:, None, None]
    pattern = np.zeros((len(background), PICTURE_SIZE, PICTURE_SIZE), np.float32)
    wave = 2 * np.pi / period
    rows = background == 1
    along = np.cos(turn[rows]) * x + np.sin(turn[rows]) * y
    pattern[rows] = np.clip(3 * np.sin(wave * (along + shift[rows, 0])), -1, 1)
    u, v = np.sin(wave * (x + shift[:, 0])), np.sin(wave * (y + shift[:, 1]))
    rows = background == 2
    pattern[rows] = np.clip(4 * (u[rows] + v[rows] - 1.0), -1, 1)
    rows = background == 3
    pattern[rows] = np.clip(4 * u[rows] * v[rows], -1, 1)
    return lightness + contrast * pattern


def _cover(shape: np.ndarray, radius: np.ndarray, centre: np.ndarray, angle: np.ndarray) -> Field:
    """Return the coverage of each pixel of a cell by its shape."""
    grid = np.arange(CELL, dtype=np.float32) + 0.5 - CELL / 2
    x = (grid[None, None, :] - centre[:, 0, None, None]) / radius[:, None, None]
    y = -(grid[None, :, None] - centre[:, 1, None, None]) / radius[:, None, None]
    cos, sin = np.cos(angle)[:, None, None], np.sin(angle)[:, None, None]
    x, y = cos * x + sin * y, -sin * x + cos * y
    distance = np.empty(x.shape, np.float32)
    for number, outline in enumerate(OUTLINES):
        rows = shape == number
        if rows.any():
            distance[rows] = outline(x[rows], y[rows])
    return np.clip(0.5 - distance * radius[:, None, None], 0, 1)


def _triangle(x: Field, y: Field) -> Field:
    y = y + 0.1
    return np.maximum(np.abs(x) * 0.866 + y * 0.5, -y) - 0.52


def _star(x: Field, y: Field) -> Field:
    fifth = 2 * np.pi / 5
    turned = np.abs((np.arctan2(x, y) + fifth / 2) % fifth - fifth / 2)
    r = np.hypot(x, y)
    inner = 0.4 * np.array([np.cos(fifth / 2), np.sin(fifth / 2)])
    edge = inner - np.array([1.0, 0.0])
    normal = np.array([edge[1], -edge[0]]) / np.hypot(*edge)
    return (r * np.cos(turned) - 1.0) * normal[0] + r * np.sin(turned) * normal[1]


def _cross(x: Field, y: Field) -> Field:
    x, y = np.abs(x), np.abs(y)
    return np.minimum(np.maximum(x - 0.95, y - 0.28), np.maximum(x - 0.28, y - 0.95))


def _heart(x: Field, y: Field) -> Field:
    x = np.abs(x)
    lobes = np.hypot(x - 0.43, y - 0.32) - 0.5
    tip = np.maximum((x * 1.07 - (y + 0.95) * 0.87) / 1.379, y - 0.12)
    return np.minimum(lobes, tip)


def _arrow(x: Field, y: Field) -> Field:
    y = np.abs(y)
    shaft = np.maximum(np.maximum(x - 0.1, -0.98 - x), y - 0.2)
    head = np.maximum((x - 1.0) * 0.66 + y * 0.75, -x)
    return np.minimum(shaft, head)


def _drop(x: Field, y: Field) -> Field:
    round_part = np.hypot(x, y + 0.38) - 0.58
    cone = np.maximum((np.abs(x) * 1.3 + (y - 1.0) * 0.52) / 1.4, -0.15 - y)
    return np.minimum(round_part, cone)


OUTLINES: tuple[Callable[[Field, Field], Field], ...] = (
    lambda x, y: np.hypot(x, y) - 0.92,  # a circle
    lambda x, y: np.abs(np.hypot(x, y) - 0.74) - 0.2,  # a ring
    lambda x, y: np.maximum(np.abs(x), np.abs(y)) - 0.8,  # a square
    _triangle,
    _star,
    _cross,
    lambda x, y: (np.abs(x) / 0.62 + np.abs(y) - 1.0) * 0.53,  # a diamond
    _heart,
    lambda x, y: np.maximum(np.abs(x) - 1.0, np.abs(y) - 0.33),  # a bar
    lambda x, y: np.maximum(np.hypot(x, y) - 0.97, 0.78 - np.hypot(x - 0.48, y)),  # a crescent
    _arrow,
    _drop,
)
"""Signed distances in units of the radius, negative inside, in the order of the shapes."""
