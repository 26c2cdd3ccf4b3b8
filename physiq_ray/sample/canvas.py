"""Draw shapes in body units as softly shaded skin on a transparent layer.

The input is outlines around a figure whose standing height is about 1 (x to the right, y down, origin at the
pelvis); the output is the figure on a backdrop. Colour and mask are drawn at twice the size of the photo and
reduced, because Pillow's polygons have no antialiasing. Light and shadow are drawn at half its size, because
they are blurred later.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageChops, ImageDraw, ImageFilter

Point: TypeAlias = tuple[float, float]
Points: TypeAlias = npt.NDArray[np.float64]  # (n, 2)
Colour: TypeAlias = tuple[int, int, int]  # RGB, 0 … 255
Move: TypeAlias = Callable[[Points], Points]  # (n, 2) → (n, 2), in body units

NEUTRAL = 128  # in the hard-light blend, this grey does not change a colour


@dataclass(frozen=True)
class Camera:
    """The projection from body units to pixels: a linear map, a shift, and a little perspective."""

    linear: tuple[tuple[float, float], tuple[float, float]]  # px per body unit
    centre_px: Point
    perspective: Point  # change of depth per body unit; 0 is a flat view

    def project(self, points: Points) -> Points:
        """Project body units (n, 2) to pixels (n, 2)."""
        depth = 1.0 + points @ np.array(self.perspective)
        projected: Points = points @ np.array(self.linear).T / depth[:, None] + np.array(self.centre_px)
        return projected

    @property
    def unit_px(self) -> float:
        """The number of pixels of one body unit (the height of the figure)."""
        return float(abs(np.linalg.det(np.array(self.linear))) ** 0.5)


class Canvas:
    """A layer of body parts; each part hides earlier parts and their shading."""

    def __init__(self, size: tuple[int, int], camera: Camera) -> None:
        self._size = size
        width, height = (-(-side // 2) for side in size)  # of the coarsest layer; other sizes are multiples
        self._camera = camera
        self._moves: list[tuple[Move, Move]] = []  # of outlines of parts and patches, and of other points
        self._colour = Image.new("RGB", (width * 4, height * 4))
        self._mask = Image.new("L", (width * 4, height * 4))
        self._shade = Image.new("L", (width, height), NEUTRAL)
        self._cast = Image.new("L", self._shade.size)
        self._draw_colour = ImageDraw.Draw(self._colour)
        self._draw_mask = ImageDraw.Draw(self._mask)
        self._draw_shade = ImageDraw.Draw(self._shade)

    @contextmanager
    def moved(self, move: Move, *, outlines: Move | None = None) -> Iterator[None]:
        """Move the points of all shapes that are drawn in this block; blocks can be nested.

        outlines: moves those of `part` and `patch` instead of `move`.
        """
        self._moves.append((outlines or move, move))
        try:
            yield
        finally:
            self._moves.pop()

    def part(self, outline: Points, colour: Colour, *, tone: int = 0, contact: int = 34) -> None:
        """Fill an outline with a colour; `contact` darkens the parts below it, next to its edge."""
        pixels = self._project(outline, is_outline=True)
        edge_px = max(2, round(self._camera.unit_px * 0.006))
        fine = _closed(pixels * 2)
        # The points of outlines are close together, so no gap shows without rounded joints, and drawing takes
        # half the time.
        self._draw_colour.line(fine, fill=darker(colour, 0.62), width=edge_px)
        self._draw_mask.line(fine, fill=255, width=edge_px)
        self._draw_colour.polygon(fine, fill=colour)
        self._draw_mask.polygon(fine, fill=255)
        coarse = _closed(pixels / 2)
        if contact:
            self._draw_shade.line(coarse, fill=NEUTRAL - contact, width=max(2, edge_px // 2))
        self._draw_shade.polygon(coarse, fill=NEUTRAL + tone)

    def tone(self, outline: Points, amount: int) -> None:
        """Lighten (amount > 0) or darken (amount < 0) a region softly; amount: -127 … 127."""
        self._draw_shade.polygon(_closed(self._project(outline) / 2), fill=NEUTRAL + amount)

    def crease(self, line: Points, amount: int, *, width: float = 0.012) -> None:
        """Draw a soft line between two muscles; `width` in body units."""
        width_px = max(1, round(self._camera.unit_px * width / 2))
        coarse = _flat(self._project(line) / 2)
        self._draw_shade.line(coarse, fill=NEUTRAL + amount, width=width_px)

    def stroke(self, line: Points, colour: Colour, *, width: float = 0.004) -> None:
        """Draw a sharp line in a colour; `width` in body units."""
        width_px = max(2, round(self._camera.unit_px * width * 2))
        self._draw_colour.line(_flat(self._project(line) * 2), fill=colour, width=width_px, joint="curve")

    def patch(self, outline: Points, colour: Colour) -> None:
        """Fill a sharp region with a colour, without its own edge or shading."""
        self._draw_colour.polygon(_closed(self._project(outline, is_outline=True) * 2), fill=colour)

    def shadow(self, outline: Points) -> None:
        """Draw the soft shadow of the figure on the floor, behind the figure."""
        pixels = self._project(outline) / 2
        ImageDraw.Draw(self._cast).polygon(_closed(pixels), fill=110)

    def paste_on(self, backdrop: Image.Image, light: Image.Image) -> None:
        """Shade the figure, light it with `light` (mode L, neutral 128, any size), and paste it."""
        box = self._mask.getbbox()
        if box is None:
            return
        # Only the box of the figure is computed: about half the photo. Multiples of 4 fit all three scales.
        left, top, right, bottom = (value // 4 for value in (box[0], box[1], box[2] + 3, box[3] + 3))
        size = ((right - left) * 2, (bottom - top) * 2)
        blurred = self._shade.crop((left, top, right, bottom)).filter(
            ImageFilter.GaussianBlur(self._camera.unit_px * 0.0042)
        )
        lit = ImageChops.add(blurred, light.resize(blurred.size), offset=-NEUTRAL)
        shade = lit.resize(size, Image.Resampling.BILINEAR)
        fine_box = (left * 4, top * 4, right * 4, bottom * 4)
        colour = ImageChops.hard_light(
            self._colour.reduce(2, fine_box), Image.merge("RGB", (shade, shade, shade))
        )
        cast = self._cast.filter(ImageFilter.BoxBlur(self._camera.unit_px * 0.008)).resize(self._size)
        backdrop.paste((0, 0, 0), (0, 0), cast)
        backdrop.paste(colour, (left * 2, top * 2), self._mask.reduce(2, fine_box))

    def _project(self, points: Points, *, is_outline: bool = False) -> Points:
        for move_outline, move in reversed(self._moves):
            points = move_outline(points) if is_outline else move(points)
        return self._camera.project(points)


def darker(colour: Colour, share: float) -> Colour:
    """Multiply a colour by a share; a share above 1 makes it lighter."""
    red, green, blue = (min(255, round(value * share)) for value in colour)
    return red, green, blue


def spline(points: Sequence[Point] | Points, *, closed: bool = True, steps: int = 5) -> Points:
    """Give a Catmull-Rom curve through the points, with `steps` points for each given point."""
    knots = np.asarray(points, dtype=np.float64)
    if closed:
        before, after, later = np.roll(knots, 1, 0), np.roll(knots, -1, 0), np.roll(knots, -2, 0)
        here = knots
    else:
        padded = np.concatenate([knots[:1], knots, knots[-1:]])
        before, here, after, later = padded[:-3], padded[1:-2], padded[2:-1], padded[3:]
    t = (np.arange(steps) / steps)[None, :, None]
    a, b, c, d = (side[:, None, :] for side in (before, here, after, later))
    curve = 0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)
    flat: Points = curve.reshape(-1, 2)
    return flat if closed else np.concatenate([flat, knots[-1:]])


def ellipse(centre: Point, radii: Point, *, angle: float = 0.0) -> Points:
    """Give the outline of an ellipse; `angle` in radians turns it clockwise."""
    turn = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    x, y = radii[0] * np.cos(turn), radii[1] * np.sin(turn)
    cos, sin = np.cos(angle), np.sin(angle)
    return np.stack([centre[0] + x * cos - y * sin, centre[1] + x * sin + y * cos], axis=1)


def limb(start: Point, end: Point, one_side: Sequence[float], other_side: Sequence[float]) -> Points:
    """Give the outline of a limb with rounded ends.

    one_side, other_side: half widths, evenly spaced from start to end. `one_side` is counter-clockwise of the
    direction start → end, as seen in the photo (to the right of a limb that hangs down).
    """
    origin, tip = np.array(start), np.array(end)
    along = tip - origin
    length = float(np.hypot(*along)) or 1e-6
    along = along / length
    across = np.array([along[1], -along[0]])

    def edge(widths: Sequence[float]) -> Points:
        places = np.linspace(0, length, len(widths))
        side: Points = origin + places[:, None] * along + np.array(widths)[:, None] * across
        return side

    first, second = edge(one_side), edge([-width for width in other_side])
    top = origin - along * 0.45 * (one_side[0] + other_side[0])
    bottom = tip + along * 0.45 * (one_side[-1] + other_side[-1])
    return spline(np.concatenate([first, bottom[None], second[::-1], top[None]]))


def along(start: Point, end: Point, share: float, offset: float = 0.0) -> Point:
    """Give the point at a share of the way, moved sideways by `offset` (towards `one_side` of a limb)."""
    dx, dy = end[0] - start[0], end[1] - start[1]
    length = float(np.hypot(dx, dy)) or 1e-6
    return (
        start[0] + dx * share + offset * dy / length,
        start[1] + dy * share - offset * dx / length,
    )


def _flat(points: Points) -> list[Point]:
    return [(float(x), float(y)) for x, y in points]


def _closed(points: Points) -> list[Point]:
    flat = _flat(points)
    return [*flat, flat[0]]
