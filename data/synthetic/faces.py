"""Drawn faces that show gender and age, with a symbolic wave that shows the other traits of a voice.

The drawings follow conventions (long hair, beards, wrinkles), so that a small CLIP can be trained without any
download; they make no claim about real people. Traits of a voice are not visible in a face, so they are drawn
as a wave below it: long periods for a low voice, a jagged line for a rough voice, light colours for a bright
voice, changing amplitude for a lively voice.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from data.voice_captions import HEARD, Traits

Plane = Float[np.ndarray, "height width"]
SKINS, HAIRS, GREYS, CLOTHES = (
    [tuple(bytes.fromhex(colour)) for colour in colours.split()]
    for colours in (
        "ffe0c4 eac099 c68c62 8d5c3c 5c3a28",
        "1e1814 5c3a20 965a28 debc6e 963219",
        "ebebeb c8c8cd a5a5aa",
        "3c5aa0 a03c3c 3c8250 78508c c8aa3c 5a5a5a",
    )
)
"""Colours in RGB."""
STRIP = 0.28
"""Fraction of the picture's height for the wave."""
SHARPEST = 0.5
"""Half width in pixels of an antialiased edge."""


def draw_face(traits: Traits, rng: np.random.Generator, *, size: int = 64) -> UInt8[Tensor, "3 size size"]:
    """Draw a person with these traits; an unspecified gender or age is random."""
    gender = traits.gender or ("F" if rng.random() < 0.5 else "M")
    age = traits.age or str(rng.choice(("child", "young", "adult", "old")))
    canvas = _Canvas(size, _tinted(rng, rng.uniform(120, 235, 3)))
    _portrait(canvas, gender, age, rng)
    if any(getattr(traits, name) is not None for name in HEARD):
        _voice(canvas, traits, rng)
    noisy = canvas.pixels + rng.normal(0, 3.0, canvas.pixels.shape)
    return torch.from_numpy(noisy.clip(0, 255).astype(np.uint8).transpose(2, 0, 1).copy())


class _Canvas:
    """A square picture with coordinates x and y from -1 to 1, y downwards."""

    def __init__(self, size: int, colour: np.ndarray) -> None:
        axis = (np.arange(size) + 0.5) / size * 2 - 1
        self.x, self.y = np.meshgrid(axis, axis)
        self.edge = 2 * SHARPEST / size
        self.pixels = np.broadcast_to(colour, (size, size, 3)).astype(np.float64)

    def fill(self, distance: Plane, colour: np.ndarray) -> None:
        """Paint the pixels with a negative signed distance."""
        cover = np.clip(0.5 - distance / (2 * self.edge), 0.0, 1.0)[..., None]
        self.pixels = self.pixels * (1 - cover) + colour * cover

    def ellipse(self, x: float, y: float, wide: float, high: float) -> Plane:
        """Return the approximate signed distance from an ellipse."""
        u, v = (self.x - x) / wide, (self.y - y) / high
        return (np.sqrt(u**2 + v**2) - 1) * min(wide, high)

    def box(self, x: float, y: float, wide: float, high: float) -> Plane:
        """Return the signed distance from a rectangle with these half sides."""
        return np.maximum(np.abs(self.x - x) - wide, np.abs(self.y - y) - high)

    def arc(self, x: float, y: float, wide: float, bend: float, thick: float) -> Plane:
        """Return the approximate signed distance from a curved line."""
        u = (self.x - x) / wide
        line = np.abs(self.y - y - bend * u**2) - thick
        return np.maximum(line, (np.abs(u) - 1) * wide)


def _tinted(rng: np.random.Generator, colour: Sequence[float] | np.ndarray, by: float = 12.0) -> np.ndarray:
    return np.clip(np.array(colour) + rng.normal(0, by, 3), 0, 255)


def _portrait(canvas: _Canvas, gender: str, age: str, rng: np.random.Generator) -> None:
    woman, child, old = gender == "F", age == "child", age == "old"
    skin = _tinted(rng, SKINS[rng.integers(len(SKINS))], 8.0)
    greying = old or (age == "adult" and rng.random() < 0.15)
    hair = _tinted(rng, (GREYS if greying else HAIRS)[rng.integers(3 if greying else len(HAIRS))], 8.0)
    clothes = _tinted(rng, CLOTHES[rng.integers(len(CLOTHES))])
    dark = skin * 0.6
    x, y = rng.normal(0, 0.05), rng.normal(-0.22 if not child else -0.1, 0.03)
    scale = {"child": 0.78, "young": 0.96, "adult": 1.0, "old": 1.0}[age] * rng.uniform(0.94, 1.06)
    wide = scale * (0.42 if child else 0.38 if woman else 0.43)
    high = scale * (0.43 if child else 0.52)

    if woman:  # hair behind the face, down to the shoulders; an old woman's is shorter
        length = 0.1 if old else 0.42 if child else rng.uniform(0.3, 0.55)
        canvas.fill(canvas.ellipse(x, y - 0.05, wide * 1.32, high * 1.15), hair)
        if child:
            for side in (-1, 1):  # bunches
                canvas.fill(canvas.ellipse(x + side * wide * 1.35, y + 0.12, wide * 0.33, high * 0.55), hair)
        else:
            canvas.fill(canvas.box(x, y + length / 2, wide * 1.28, length / 2 + 0.15), hair)
    canvas.fill(canvas.ellipse(x, 1.0, 0.55 * scale if woman or child else 0.78, 0.42), clothes)
    canvas.fill(canvas.box(x, y + high, wide * (0.3 if woman or child else 0.42), 0.2), skin * 0.9)
    for side in (-1, 1):
        canvas.fill(canvas.ellipse(x + side * wide, y + 0.03, 0.07 * scale, 0.11 * scale), skin * 0.93)
    canvas.fill(canvas.ellipse(x, y, wide, high), skin)
    beard = not woman and not child and rng.random() < (0.2 if age == "young" else 0.6)
    if beard:
        inside = np.maximum(canvas.ellipse(x, y, wide, high), -(canvas.y - y - high * 0.3))
        canvas.fill(inside, hair)
    bald = not woman and not child and rng.random() < (0.55 if old else 0.15 if age == "adult" else 0.0)
    if not bald:
        line = high * (0.42 if woman else 0.5)
        cap = np.maximum(canvas.ellipse(x, y, wide * 1.06, high * 1.07), canvas.y - (y - line))
        canvas.fill(cap, hair)
    elif old:
        for side in (-1, 1):
            canvas.fill(canvas.ellipse(x + side * wide * 0.97, y - 0.1, 0.07, 0.18), hair)

    eye = scale * (0.1 if child else 0.085 if woman else 0.07)
    for side in (-1, 1):
        at = x + side * wide * 0.45
        canvas.fill(canvas.ellipse(at, y + 0.0, eye * 1.15, eye * (0.55 if old else 0.85)), np.full(3, 250.0))
        canvas.fill(canvas.ellipse(at, y + 0.0, eye * 0.55, eye * 0.6), np.array([30.0, 30.0, 40.0]))
        brow = 0.018 if woman or child else 0.04
        canvas.fill(canvas.arc(at, y - 0.17 * scale, 0.13 * scale, 0.03, brow), hair * 0.8)
        if woman and not child:
            canvas.fill(canvas.arc(at, y - eye * 0.95, eye * 1.3, 0.04, 0.02), np.zeros(3))
        if old:
            canvas.fill(canvas.arc(at, y + 0.13, 0.11, -0.03, 0.014), dark)
            canvas.fill(canvas.box(x + side * wide * 0.55, y + high * 0.45, 0.014, 0.09), dark)
    if old:
        for row in (0.3, 0.4, 0.5):
            canvas.fill(canvas.arc(x, y - high * row - 0.06, wide * 0.55, -0.02, 0.014), dark)
    canvas.fill(canvas.ellipse(x, y + high * 0.3, 0.045 * scale, 0.06 * scale), skin * 0.85)
    lips = np.array([200.0, 40.0, 60.0]) if woman and not child else np.array([150.0, 70.0, 65.0])
    canvas.fill(canvas.arc(x, y + high * 0.62, wide * 0.42, -0.05, 0.035 if woman else 0.025), lips)


def _voice(canvas: _Canvas, traits: Traits, rng: np.random.Generator) -> None:
    """Draw a strip with a wave under the face; unspecified traits are drawn as level 0."""
    pitch, rough, bright, melody = ((getattr(traits, name) or 0) + rng.normal(0, 0.15) for name in HEARD)
    top = 1 - 2 * STRIP
    canvas.fill(top - canvas.y, np.full(3, 20.0))
    middle, room = 1 - STRIP, STRIP * 0.85
    cycles = 4.0 * 2 ** (pitch * 0.62)
    points = np.linspace(-1, 1, canvas.x.shape[1] + 1)
    swing = 0.62 + 0.19 * melody * np.cos(np.pi * (points * 1.5 + rng.uniform(0, 2)))
    wave = np.sin(np.pi * cycles * points + rng.uniform(0, 2 * np.pi)) * swing
    teeth = np.where(np.arange(len(points)) % 2, 1.0, -1.0) * rng.uniform(0.5, 1.0, len(points))
    wave = np.clip(wave + teeth * 0.1 * (rough + 2), -1.1, 1.1)
    shade = np.clip((bright + 2) / 4, 0, 1)
    colour = np.array([90.0, 50.0, 150.0]) * (1 - shade) + np.array([255.0, 255.0, 120.0]) * shade
    # Each column covers the range between two points, so that steep lines have no gaps.
    centre, half = (wave[1:] + wave[:-1]) / 2, np.abs(np.diff(wave)) / 2
    line = np.abs(canvas.y - (middle + room * centre)) - room * half - 0.03
    canvas.fill(np.maximum(line, top - canvas.y), colour)
