"""Random backgrounds behind an athlete: walls, tiles, racks, curtains, stage lights.

They are drawn at a quarter of the photo's size and enlarged: this is cheap and looks out of focus. Nothing
here depends on the pose.
"""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from physiq_ray.sample.canvas import Colour, darker


def draw_backdrop(rng: np.random.Generator, size: tuple[int, int], floor_px: float) -> Image.Image:
    """Draw one of eight kinds of background, RGB; size: (width, height) in px.

    If there is a floor, it begins at `floor_px` from the top.
    """
    small = (max(8, size[0] // 4), max(8, size[1] // 4))
    kind = _KINDS[int(rng.integers(len(_KINDS)))]
    image = _gradient(rng, small)
    wall = image.copy()
    kind(image, ImageDraw.Draw(image), rng)
    image = Image.blend(wall, image, float(rng.uniform(0.5, 1.0)))  # some rooms are hazier
    if rng.random() < 0.8:
        _floor(image, ImageDraw.Draw(image), rng, round(floor_px / 4))
    blurred = image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.8, 2.0))))
    return blurred.resize(size, Image.Resampling.BILINEAR)


def _colour(rng: np.random.Generator, low: int = 25, high: int = 215, *, tint: float = 16) -> Colour:
    """Draw a muted colour: a grey level with a slight tint."""
    level = rng.uniform(low, high)
    red, green, blue = (int(np.clip(level + shift, 0, 255)) for shift in rng.normal(0, tint, 3))
    return red, green, blue


def _gradient(rng: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    """Paint a wall with light from one side: a mix of four corner colours."""
    base = np.array(_colour(rng), dtype=np.float32)
    corners = np.clip(base + rng.normal(0, 24, (4, 1)) + rng.normal(0, 6, (4, 3)), 0, 255)
    return Image.fromarray(corners.reshape(2, 2, 3).astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)


def _floor(image: Image.Image, draw: ImageDraw.ImageDraw, rng: np.random.Generator, top: int) -> None:
    width, height = image.size
    colour = _colour(rng, 35, 170, tint=9)
    draw.rectangle((0, top, width, height), fill=colour)
    draw.line((0, top, width, top), fill=darker(colour, 0.6), width=2)
    if rng.random() < 0.5:
        vanishing = width * float(rng.uniform(0.2, 0.8))
        for x in np.arange(-2.0, 3.0, 0.25):
            draw.line(
                (vanishing + (x * width - vanishing) * 0.45, top, x * width, height), fill=darker(colour, 0.8)
            )


def _plain(image: Image.Image, draw: ImageDraw.ImageDraw, rng: np.random.Generator) -> None:
    width, height = image.size
    if rng.random() < 0.5:
        y = height * float(rng.uniform(0.2, 0.6))
        draw.rectangle((0, 0, width, y), fill=_colour(rng))


def _stripes(image: Image.Image, draw: ImageDraw.ImageDraw, rng: np.random.Generator) -> None:
    width, height = image.size
    step = width * float(rng.uniform(0.05, 0.2))
    colour = _colour(rng)
    lean = width * float(rng.uniform(-0.3, 0.3))
    for x in np.arange(-width, 2 * width, step):
        draw.polygon(
            [(x, 0), (x + step / 2, 0), (x + step / 2 + lean, height), (x + lean, height)], fill=colour
        )


def _tiles(image: Image.Image, draw: ImageDraw.ImageDraw, rng: np.random.Generator) -> None:
    width, height = image.size
    across, down = width * float(rng.uniform(0.08, 0.3)), height * float(rng.uniform(0.03, 0.15))
    joint = _colour(rng)
    is_brick = bool(rng.random() < 0.5)
    for row, y in enumerate(np.arange(0, height, down)):
        draw.line((0, y, width, y), fill=joint)
        shift = across / 2 if is_brick and row % 2 else 0.0
        for x in np.arange(shift, width, across):
            draw.line((x, y, x, y + down), fill=joint)


def _rack(image: Image.Image, draw: ImageDraw.ImageDraw, rng: np.random.Generator) -> None:
    """Draw shelves of dumbbells."""
    width, height = image.size
    steel, rubber = _colour(rng, 60, 200), _colour(rng, 10, 70)
    for y in np.linspace(0.25, 0.85, int(rng.integers(3, 6))) * height:
        draw.rectangle((0, y, width, y + height * 0.012), fill=steel)
        radius = height * float(rng.uniform(0.015, 0.03))
        for x in np.arange(float(rng.uniform(0, 4)) * radius, width, radius * 5):
            draw.rectangle((x - radius, y - radius * 1.2, x + radius * 2, y - radius * 0.8), fill=steel)
            for plate in (x - radius, x + radius * 2):
                draw.ellipse((plate - radius * 0.8, y - radius * 2, plate + radius * 0.8, y), fill=rubber)


def _cage(image: Image.Image, draw: ImageDraw.ImageDraw, rng: np.random.Generator) -> None:
    """Draw a power cage with a loaded bar."""
    width, height = image.size
    steel = _colour(rng, 20, 200)
    for x in rng.uniform(0, 1, 4) * width:
        draw.rectangle((x, height * 0.05, x + width * 0.035, height * 0.9), fill=steel)
    y = height * float(rng.uniform(0.1, 0.7))
    draw.rectangle((0, y, width, y + height * 0.012), fill=darker(steel, 1.2))
    for x in (width * 0.08, width * 0.92):
        radius = height * float(rng.uniform(0.05, 0.11))
        draw.ellipse((x - radius * 0.4, y - radius, x + radius * 0.4, y + radius), fill=_colour(rng, 10, 120))


def _stage(image: Image.Image, draw: ImageDraw.ImageDraw, rng: np.random.Generator) -> None:
    """Paint a dark stage with cones of light from above."""
    width, height = image.size
    image.paste(_colour(rng, 10, 60), (0, 0, width, height))
    beams = Image.new("RGB", image.size)
    beam_draw = ImageDraw.Draw(beams)
    for x in rng.uniform(0, 1, int(rng.integers(2, 5))) * width:
        foot, half = x + float(rng.normal(0, 0.3)) * width, width * float(rng.uniform(0.1, 0.3))
        beam_draw.polygon(
            [(x - 2, 0), (x + 2, 0), (foot + half, height), (foot - half, height)], fill=_colour(rng)
        )
    mixed = Image.blend(image, beams.filter(ImageFilter.GaussianBlur(5)), 0.45)
    image.paste(mixed)


def _window(image: Image.Image, draw: ImageDraw.ImageDraw, rng: np.random.Generator) -> None:
    """Draw bright panes."""
    width, height = image.size
    pane, frame = _colour(rng, 170, 250), _colour(rng, 30, 150)
    left, top = width * float(rng.uniform(-0.2, 0.4)), height * float(rng.uniform(0, 0.2))
    step_x, step_y = width * float(rng.uniform(0.15, 0.35)), height * float(rng.uniform(0.15, 0.3))
    for column in range(3):
        for row in range(2):
            box = (
                left + column * step_x,
                top + row * step_y,
                left + (column + 1) * step_x,
                top + (row + 1) * step_y,
            )
            draw.rectangle(box, fill=pane, outline=frame, width=3)


def _spots(image: Image.Image, draw: ImageDraw.ImageDraw, rng: np.random.Generator) -> None:
    """Draw a dark room with lights out of focus."""
    width, height = image.size
    lights = Image.new("RGB", image.size, _colour(rng, 15, 80))
    light_draw = ImageDraw.Draw(lights)
    for _ in range(int(rng.integers(8, 26))):
        x, y = float(rng.uniform(0, width)), float(rng.uniform(0, height))
        radius = height * float(rng.uniform(0.01, 0.05))
        light_draw.ellipse(
            (x - radius, y - radius, x + radius, y + radius), fill=_colour(rng, 60, 240, tint=24)
        )
    image.paste(Image.blend(image, lights, float(rng.uniform(0.35, 0.7))))


_KINDS: tuple[Callable[[Image.Image, ImageDraw.ImageDraw, np.random.Generator], None], ...] = (
    _plain,
    _stripes,
    _tiles,
    _rack,
    _cage,
    _stage,
    _window,
    _spots,
)
