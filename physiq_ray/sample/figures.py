"""Drawn athletes in the eight mandatory poses, because real photos may not be published.

An `Athlete` has a fixed build, skin, trunks and hair. `draw_photo` draws an athlete in a pose in front of a
random background, with a random light and camera. All random numbers come from the given generator. Only the
joints depend on the pose: colour, background and light do not reveal it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, get_args

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageChops, ImageEnhance

from physiq_ray.sample.arms import HairStyle, Looks
from physiq_ray.sample.backdrops import draw_backdrop
from physiq_ray.sample.canvas import NEUTRAL, Camera, Canvas, Colour, ellipse
from physiq_ray.sample.facing import draw_facing
from physiq_ray.sample.profile import draw_profile
from physiq_ray.sample.skeletons import BACK_POSE_IDS, PROFILE_POSE_IDS, Build, build_skeleton

_SKINS: tuple[Colour, ...] = (
    (250, 214, 186),
    (240, 194, 158),
    (226, 172, 132),
    (205, 148, 106),
    (176, 118, 80),
    (142, 92, 62),
    (108, 70, 50),
    (84, 56, 42),
)
_HAIRS: tuple[Colour, ...] = (
    (34, 28, 26),
    (62, 42, 30),
    (104, 70, 42),
    (176, 136, 78),
    (150, 74, 40),
    (142, 142, 142),
)


FIGURE_WIDTH: Final = 0.62  # of one person with spread arms, in body units


@dataclass(frozen=True)
class Athlete:
    """One person, who looks the same in every photo."""

    build: Build
    looks: Looks

    @classmethod
    def random(cls, rng: np.random.Generator) -> "Athlete":
        """Make a random athlete."""
        has_top = bool(rng.random() < 0.3)
        styles = get_args(HairStyle)
        style: HairStyle = styles[
            int(rng.choice(4, p=(0.05, 0.25, 0.3, 0.4) if has_top else (0.2, 0.6, 0.1, 0.1)))
        ]
        build = Build(
            shoulder=float(rng.uniform(0.112, 0.128) if has_top else rng.uniform(0.120, 0.140)),
            waist=float(rng.uniform(0.064, 0.080)),
            hip=float(rng.uniform(0.076, 0.088)),
            muscle=float(rng.uniform(0.84, 1.0) if has_top else rng.uniform(0.92, 1.14)),
            arm=float(rng.uniform(0.93, 1.07)),
            leg=float(rng.uniform(0.95, 1.06)),
            head=float(rng.uniform(0.94, 1.10)),
        )
        skin = _tinted(_SKINS[int(rng.integers(len(_SKINS)))], rng, 7)
        looks = Looks(
            skin=skin,
            trunks=_vivid(rng, apart_from=skin),
            trunks_length=float(rng.choice((0.0, 0.15, 1.0))),
            hair=_tinted(_HAIRS[int(rng.integers(len(_HAIRS)))], rng, 8),
            hair_style=style,
            shoes=_vivid(rng) if rng.random() < 0.4 else None,
            top=_vivid(rng, apart_from=skin) if has_top else None,
            has_beard=not has_top and bool(rng.random() < 0.35),
        )
        return cls(build, looks)


def draw_photo(
    pose_id: int, athlete: Athlete, rng: np.random.Generator, size: tuple[int, int]
) -> Image.Image:
    """Draw an upright RGB photo of the athlete in a pose; size: (width, height) in px.

    Raises KeyError: the pose is not in skeletons.POSE_IDS.
    """

    def draw(canvas: Canvas, rng: np.random.Generator) -> None:
        skeleton = build_skeleton(pose_id, athlete.build, rng)
        draw_shadow(canvas, athlete.build)
        if pose_id in PROFILE_POSE_IDS:
            draw_profile(canvas, pose_id, skeleton, athlete.build, athlete.looks)
        else:
            is_back = pose_id in BACK_POSE_IDS
            draw_facing(canvas, pose_id, skeleton, athlete.build, athlete.looks, is_back=is_back)

    return draw_scene(draw, rng, size)


def draw_scene(
    draw: Callable[[Canvas, np.random.Generator], None],
    rng: np.random.Generator,
    size: tuple[int, int],
    *,
    reach: float = FIGURE_WIDTH,
) -> Image.Image:
    """Draw an upright RGB photo with a random background, light and camera.

    draw: draws the subject around the origin, with its own generator. reach: the width of the subject in body
    units; a narrow photo shows a wider subject at a smaller scale. size: (width, height) in px.
    """
    camera = _camera(rng, size, reach)
    feet_px = camera.project(np.array([[0.0, 0.46]]))[0, 1]
    photo = draw_backdrop(rng, size, feet_px * float(rng.uniform(0.84, 0.99)))
    # The subject has its own generator, because the later steps must not depend on how many numbers it uses.
    canvas = Canvas(size, camera)
    draw(canvas, rng.spawn(1)[0])
    canvas.paste_on(photo, _side_light(rng))
    return _exposed(photo, rng)


def draw_shadow(canvas: Canvas, build: Build) -> None:
    """Draw the shadow of a person on the floor."""
    canvas.shadow(ellipse((0.0, 0.485 * build.leg), (0.15, 0.016)))


def draw_empty_photo(rng: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    """Draw the same kind of photo without a person."""
    return _exposed(draw_backdrop(rng, size, size[1] * float(rng.uniform(0.7, 0.9))), rng)


def _camera(rng: np.random.Generator, size: tuple[int, int], reach: float) -> Camera:
    """Make a camera that shows almost the whole subject: slightly off centre and tilted, maybe mirrored."""
    width, height = size
    unit_px = min(height * 1.0, width * (1.34 * FIGURE_WIDTH / reach)) * float(rng.uniform(0.88, 1.0))
    tilt, shear = np.clip(rng.normal(0.0, 0.04, 2), -0.09, 0.09)
    stretch = float(rng.uniform(0.94, 1.06))
    side = -1.0 if rng.random() < 0.5 else 1.0
    cos, sin = np.cos(tilt) * unit_px, np.sin(tilt) * unit_px
    room_x, room_y = max(0.0, width - reach * unit_px) / 2, max(0.0, height - unit_px) / 2
    return Camera(
        linear=((side * stretch * cos, shear * unit_px - sin), (side * stretch * sin, cos)),
        centre_px=(
            width / 2 + float(rng.uniform(-0.5, 0.5)) * room_x,
            height * 0.5 - 0.005 * unit_px + float(rng.uniform(-0.8, 0.8)) * room_y,
        ),
        perspective=(float(rng.normal(0, 0.05)), float(rng.normal(0, 0.06))),
    )


def _side_light(rng: np.random.Generator) -> Image.Image:
    """Make a light from one side and from above or below: mode L, 128 is neutral."""
    across, down = rng.uniform(-26, 26), rng.uniform(-10, 18)
    corners = np.array(
        [[128 + across + down, 128 - across + down], [128 + across - down, 128 - across - down]]
    )
    return Image.fromarray(corners.astype(np.uint8)).resize((64, 64), Image.Resampling.BILINEAR)


def _exposed(photo: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Add the effects of a camera: exposure, contrast, white balance, grain."""
    photo = ImageEnhance.Contrast(photo).enhance(float(rng.uniform(0.85, 1.15)))
    warmth = float(np.clip(rng.normal(0, 0.035), -0.08, 0.08))
    gains = float(rng.uniform(0.78, 1.16)) * np.array([1 + warmth, 1.0, 1 - warmth])
    levels = np.arange(256)
    photo = photo.point([int(value) for gain in gains for value in np.clip(levels * gain, 0, 255)])
    strength = int(rng.integers(3, 11))
    grain = rng.integers(NEUTRAL - strength, NEUTRAL + strength + 1, photo.size[::-1], dtype=np.uint8)
    layer = Image.fromarray(grain)
    return ImageChops.add(photo, Image.merge("RGB", (layer, layer, layer)), offset=-NEUTRAL)


def _tinted(colour: Colour, rng: np.random.Generator, sigma: float) -> Colour:
    shifts = rng.normal(0, sigma) + rng.normal(0, sigma / 4, 3)  # the lightness changes, the hue hardly
    mixed: npt.NDArray[np.float64] = np.clip(np.array(colour) + shifts, 0, 255)
    red, green, blue = (int(value) for value in mixed)
    return red, green, blue


def _vivid(rng: np.random.Generator, *, apart_from: Colour | None = None) -> Colour:
    """Choose a random colour; with apart_from, one that differs clearly from that skin colour."""
    while True:
        red, green, blue = (int(value) for value in rng.uniform(15, 235, 3))
        if apart_from is None or np.linalg.norm(np.subtract((red, green, blue), apart_from)) > 90:
            return red, green, blue
