"""Draw equipment of a gym where an athlete would stand. Lengths are in body units."""

from collections.abc import Callable
from typing import Final

import numpy as np

from physiq_ray.sample.canvas import Canvas, Colour, Points, darker, ellipse, limb

_FLOOR_Y: Final = 0.47


def draw_equipment(canvas: Canvas, rng: np.random.Generator) -> None:
    """Draw one large piece of equipment around the origin and up to two small ones next to it."""
    steel, rubber = _colour(rng, 90, 200), _colour(rng, 15, 70)
    large = _LARGE[int(rng.integers(len(_LARGE)))]
    with canvas.moved(_to(float(rng.normal(0.0, 0.03)), 0.0, float(rng.uniform(0.88, 1.08)))):
        large(canvas, rng, steel, rubber)
    for side in (-1, 1):
        if rng.random() < 0.7:
            small = _SMALL[int(rng.integers(len(_SMALL)))]
            place = _to(
                side * float(rng.uniform(0.14, 0.24)),
                float(rng.uniform(0.0, 0.03)),
                float(rng.uniform(0.8, 1.2)),
            )
            with canvas.moved(place):
                small(canvas, rng, steel, rubber)


def _to(x: float, y: float, scale: float) -> Callable[[Points], Points]:
    """Give a move to x and y that scales around the floor."""
    return lambda points: (points - np.array((0.0, _FLOOR_Y))) * scale + np.array((x, _FLOOR_Y + y))


def _colour(rng: np.random.Generator, low: int, high: int) -> Colour:
    level = rng.uniform(low, high)
    red, green, blue = (int(np.clip(level + shift, 0, 255)) for shift in rng.normal(0, 8, 3))
    return red, green, blue


def _vivid(rng: np.random.Generator) -> Colour:
    red, green, blue = (int(value) for value in rng.uniform(15, 220, 3))
    return red, green, blue


def _box(left: float, top: float, right: float, bottom: float) -> Points:
    return np.array([(left, top), (right, top), (right, bottom), (left, bottom)])


def _bar(canvas: Canvas, y: float, half: float, steel: Colour, rubber: Colour, radius: float) -> None:
    """Draw a barbell, seen from the front: the plates are narrow."""
    canvas.part(_box(-half, y - 0.006, half, y + 0.006), steel)
    for side in (-1, 1):
        for place, share in ((0.72, 1.0), (0.79, 0.86), (0.85, 0.62)):
            canvas.part(
                ellipse((side * half * place, y), (0.013, radius * share)), darker(rubber, 1.3 - 0.3 * share)
            )


def _rack(canvas: Canvas, rng: np.random.Generator, steel: Colour, rubber: Colour) -> None:
    """Draw a squat rack with a loaded bar."""
    frame = _vivid(rng) if rng.random() < 0.5 else darker(steel, 0.7)
    canvas.shadow(ellipse((0.0, _FLOOR_Y + 0.015), (0.22, 0.016)))
    canvas.part(_box(-0.17, -0.425, 0.17, -0.395), darker(frame, 0.85))
    for side in (-1, 1):
        x = side * 0.16
        canvas.part(_box(x - 0.016, -0.43, x + 0.016, _FLOOR_Y), frame)
        canvas.part(_box(x - 0.045, _FLOOR_Y - 0.02, x + 0.045, _FLOOR_Y + 0.014), darker(frame, 0.8))
        for y in np.arange(-0.36, 0.40, 0.05):
            canvas.patch(ellipse((x, float(y)), (0.004, 0.005)), darker(frame, 0.35))
    y = float(rng.uniform(-0.28, 0.05))
    _bar(canvas, y, 0.31, steel, rubber, 0.085)
    for side in (-1, 1):
        canvas.part(_box(side * 0.16 - 0.022, y - 0.004, side * 0.16 + 0.022, y + 0.026), darker(frame, 0.6))


def _bench(canvas: Canvas, rng: np.random.Generator, steel: Colour, rubber: Colour) -> None:
    """Draw a bench press: a bench from its foot end, and a loaded bar above it."""
    pad = _vivid(rng) if rng.random() < 0.5 else rubber
    canvas.shadow(ellipse((0.0, _FLOOR_Y + 0.015), (0.20, 0.018)))
    top = float(rng.uniform(-0.02, 0.06))
    for side in (-1, 1):
        x = side * 0.15
        canvas.part(_box(x - 0.013, top - 0.03, x + 0.013, 0.40), darker(steel, 0.75))
        canvas.part(_box(x - 0.035, 0.385, x + 0.035, 0.405), darker(steel, 0.6))
    _bar(canvas, top, 0.31, steel, rubber, 0.085)
    canvas.part(_box(-0.016, 0.30, 0.016, _FLOOR_Y), darker(steel, 0.7))
    canvas.part(_box(-0.09, _FLOOR_Y - 0.014, 0.09, _FLOOR_Y + 0.012), darker(steel, 0.8))
    seat = np.array([(-0.055, 0.20), (0.055, 0.20), (0.095, 0.315), (-0.095, 0.315)])
    canvas.part(seat, pad)
    canvas.part(_box(-0.095, 0.315, 0.095, 0.350), darker(pad, 0.7))


def _shelf(canvas: Canvas, rng: np.random.Generator, steel: Colour, rubber: Colour) -> None:
    """Draw three shelves of dumbbells."""
    frame = _vivid(rng) if rng.random() < 0.5 else darker(steel, 0.8)
    canvas.shadow(ellipse((0.0, _FLOOR_Y + 0.010), (0.30, 0.014)))
    top = float(rng.uniform(0.0, 0.10))
    for side in (-1, 1):
        canvas.part(_box(side * 0.27 - 0.012, top - 0.03, side * 0.27 + 0.012, _FLOOR_Y), darker(frame, 0.8))
    for row, y in enumerate(np.linspace(top, 0.40, 3)):
        canvas.part(_box(-0.285, float(y), 0.285, float(y) + 0.018), frame)
        radius = 0.022 + 0.006 * row
        for x in np.linspace(-0.23, 0.23, 5):
            _dumbbell(canvas, float(x), float(y) - radius, radius, steel, rubber)


def _dumbbell(canvas: Canvas, x: float, y: float, radius: float, steel: Colour, rubber: Colour) -> None:
    canvas.part(_box(x - radius, y - 0.006, x + radius, y + 0.006), steel)
    for side in (-1, 1):
        canvas.part(ellipse((x + side * radius, y), (radius * 0.42, radius)), rubber)


def _loose_dumbbell(canvas: Canvas, rng: np.random.Generator, steel: Colour, rubber: Colour) -> None:
    canvas.shadow(ellipse((0.0, _FLOOR_Y + 0.004), (0.06, 0.010)))
    _dumbbell(canvas, 0.0, _FLOOR_Y - 0.03, 0.034, steel, _vivid(rng) if rng.random() < 0.4 else rubber)


def _kettlebell(canvas: Canvas, rng: np.random.Generator, steel: Colour, rubber: Colour) -> None:
    colour = _vivid(rng) if rng.random() < 0.5 else rubber
    canvas.shadow(ellipse((0.0, _FLOOR_Y + 0.004), (0.06, 0.010)))
    for side in (-1, 1):
        handle = limb(
            (side * 0.026, _FLOOR_Y - 0.070), (side * 0.020, _FLOOR_Y - 0.118), [0.009] * 3, [0.009] * 3
        )
        canvas.part(handle, colour)
    canvas.part(_box(-0.026, _FLOOR_Y - 0.132, 0.026, _FLOOR_Y - 0.114), colour)
    canvas.part(ellipse((0.0, _FLOOR_Y - 0.045), (0.048, 0.047)), colour)
    canvas.tone(ellipse((-0.014, _FLOOR_Y - 0.062), (0.016, 0.014)), 40)


def _ball(canvas: Canvas, rng: np.random.Generator, steel: Colour, rubber: Colour) -> None:
    canvas.shadow(ellipse((0.0, _FLOOR_Y + 0.004), (0.07, 0.012)))
    canvas.part(ellipse((0.0, _FLOOR_Y - 0.065), (0.068, 0.067)), _vivid(rng))
    canvas.tone(ellipse((-0.02, _FLOOR_Y - 0.09), (0.024, 0.020)), 44)


def _plates(canvas: Canvas, rng: np.random.Generator, steel: Colour, rubber: Colour) -> None:
    """Draw plates that lie on each other."""
    canvas.shadow(ellipse((0.0, _FLOOR_Y + 0.004), (0.10, 0.014)))
    for row in range(int(rng.integers(2, 5))):
        y = _FLOOR_Y - 0.012 - row * 0.022
        colour = _vivid(rng) if rng.random() < 0.3 else darker(rubber, 1.0 + 0.2 * row)
        canvas.part(ellipse((0.0, y), (0.085, 0.020)), darker(colour, 0.7))
        canvas.part(ellipse((0.0, y - 0.006), (0.085, 0.018)), colour)
        canvas.patch(ellipse((0.0, y - 0.006), (0.018, 0.004)), darker(colour, 0.3))


_Draw = Callable[[Canvas, np.random.Generator, Colour, Colour], None]
_LARGE: Final[tuple[_Draw, ...]] = (_rack, _bench, _shelf)
_SMALL: Final[tuple[_Draw, ...]] = (_loose_dumbbell, _kettlebell, _ball, _plates)
