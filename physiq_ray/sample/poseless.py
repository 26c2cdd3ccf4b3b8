"""Drawn photos of no known pose: what a coach also gets, besides poses.

relaxed      one person who stands relaxed, from the front or from behind
half_turned  one relaxed person who is half turned away
empty_gym    equipment, and nobody
two_people   two people next to each other

Background, light, camera, athletes and clothes are those of the photos of poses.
"""

from collections.abc import Callable
from typing import Final, Literal, TypeAlias, get_args

import numpy as np
from PIL import Image

from physiq_ray.sample.arms import sided
from physiq_ray.sample.canvas import Canvas, Move, Points, along, ellipse
from physiq_ray.sample.equipment import draw_equipment
from physiq_ray.sample.facing import draw_facing
from physiq_ray.sample.figures import FIGURE_WIDTH, Athlete, draw_scene, draw_shadow
from physiq_ray.sample.skeletons import Arm
from physiq_ray.sample.stances import ArmStance, build_relaxed, build_turned
from physiq_ray.sample.turned import draw_turned

PoselessKind: TypeAlias = Literal["relaxed", "half_turned", "empty_gym", "two_people"]
POSELESS_KINDS: Final[tuple[PoselessKind, ...]] = get_args(PoselessKind)

_TURNED_FRONT: Final = (0.55, 0.95)  # radians
_TURNED_BACK: Final = (2.10, 2.60)
_APART: Final = 0.36  # between two people, in body units
_PAIR_WIDTH: Final = 0.72
_PHONE: Final = ((-0.022, -0.044), (0.022, -0.044), (0.022, 0.044), (-0.022, 0.044))


def draw_poseless_photo(
    kind: PoselessKind, athlete: Athlete, rng: np.random.Generator, size: tuple[int, int]
) -> Image.Image:
    """Draw an upright RGB photo without a known pose; size: (width, height) in px.

    The second one of two people is random. Nobody is in a photo of an empty gym.
    Raises KeyError: the kind is not in POSELESS_KINDS.
    """
    draw_subject = _SUBJECTS[kind]
    reach = _PAIR_WIDTH if kind == "two_people" else FIGURE_WIDTH
    return draw_scene(lambda canvas, own: draw_subject(canvas, athlete, own), rng, size, reach=reach)


def _draw_relaxed(canvas: Canvas, athlete: Athlete, rng: np.random.Generator) -> None:
    is_back = bool(rng.random() < 0.3)
    arms: tuple[ArmStance, ArmStance] = ("hanging", "hanging")
    if not is_back and rng.random() < 0.5:
        choices: tuple[tuple[ArmStance, ArmStance], ...] = (
            ("folded", "folded"),
            ("phone", "hanging"),
            ("hanging", "phone"),
        )
        arms = choices[int(rng.choice(3, p=(0.5, 0.25, 0.25)))]
    _draw_standing(canvas, athlete, arms, rng, is_back=is_back)


def _draw_standing(
    canvas: Canvas,
    athlete: Athlete,
    arms: tuple[ArmStance, ArmStance],
    rng: np.random.Generator,
    *,
    is_back: bool = False,
) -> None:
    skeleton = build_relaxed(arms, athlete.build, rng)
    draw_shadow(canvas, athlete.build)
    draw_facing(canvas, None, skeleton, athlete.build, athlete.looks, is_back=is_back)
    for side, stance, arm in zip((1, -1), arms, skeleton.arms, strict=True):
        if stance == "phone":
            _draw_phone(canvas, side, arm)


def _draw_phone(canvas: Canvas, side: int, arm: Arm) -> None:
    """Draw the back of the phone that the hand of an arm holds; side: 1 or -1, as joints point outwards."""
    x, y = along(arm.elbow, arm.wrist, 1.30)
    canvas.part(sided(np.array([(x + dx, y + dy) for dx, dy in _PHONE]), side), (34, 36, 40))
    canvas.patch(sided(ellipse((x - 0.010, y - 0.028), (0.007, 0.007)), side), (110, 116, 124))


def _draw_half_turned(canvas: Canvas, athlete: Athlete, rng: np.random.Generator) -> None:
    _draw_turned(canvas, athlete, rng, is_back=bool(rng.random() < 0.6))


def _draw_turned(canvas: Canvas, athlete: Athlete, rng: np.random.Generator, *, is_back: bool) -> None:
    angle = float(rng.uniform(*(_TURNED_BACK if is_back else _TURNED_FRONT)))
    draw_shadow(canvas, athlete.build)
    draw_turned(canvas, angle, build_turned(angle, athlete.build, rng), athlete.build, athlete.looks)


def _draw_gym(canvas: Canvas, _: Athlete, rng: np.random.Generator) -> None:
    draw_equipment(canvas, rng)


def _draw_two(canvas: Canvas, athlete: Athlete, rng: np.random.Generator) -> None:
    """Draw two people who talk, or who stand next to each other, maybe with an arm around the other."""
    partner = Athlete.random(rng)
    people = (athlete, partner) if rng.random() < 0.5 else (partner, athlete)
    is_talk, is_around = bool(rng.random() < 0.35), bool(rng.random() < 0.5)
    for side, person in zip((1, -1), people, strict=True):  # the second one hides the arm of the first one
        with canvas.moved(_beside(side, rng)):
            if is_talk:
                _draw_turned(canvas, person, rng, is_back=False)
            else:
                inner: ArmStance = "around" if is_around and side == 1 else "hanging"
                _draw_standing(canvas, person, (inner, "hanging"), rng)


def _beside(side: int, rng: np.random.Generator) -> Move:
    """Give a move of a figure that looks to x > 0, so that it looks to another one at -`side`."""
    origin = np.array((-side * _APART / 2 + float(rng.normal(0, 0.01)), float(rng.normal(0, 0.008))))

    def move(points: Points) -> Points:
        moved: Points = points * np.array((side, 1.0)) + origin
        return moved

    return move


_SUBJECTS: Final[dict[PoselessKind, Callable[[Canvas, Athlete, np.random.Generator], None]]] = {
    "relaxed": _draw_relaxed,
    "half_turned": _draw_half_turned,
    "empty_gym": _draw_gym,
    "two_people": _draw_two,
}
