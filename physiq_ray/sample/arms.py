"""Muscular arms, which are the same in every view, and the looks of an athlete.

Lengths are in body units. Tones are -127 … 127, as in Canvas.tone.
"""

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from physiq_ray.sample.canvas import Canvas, Colour, Point, Points, along, darker, ellipse, limb, spline
from physiq_ray.sample.skeletons import Arm, Build

HairStyle: TypeAlias = Literal["bald", "short", "bun", "long"]


@dataclass(frozen=True)
class Looks:
    """The looks of an athlete in every photo; the proportions are in `Build`."""

    skin: Colour
    trunks: Colour
    trunks_length: float  # 0 briefs … 1 shorts
    hair: Colour
    hair_style: HairStyle
    shoes: Colour | None  # None: barefoot
    top: Colour | None  # None: bare chest
    has_beard: bool


def draw_upper_arm(canvas: Canvas, arm: Arm, side: int, build: Build, looks: Looks) -> None:
    """Draw biceps, triceps and deltoid; side: 1 or -1, the side of the spine, as joints point outwards."""
    m = build.muscle
    biceps = [0.036 * m, 0.040 * m, 0.046 * m, 0.042 * m, 0.028 * m]
    triceps = [0.034 * m, 0.040 * m, 0.040 * m, 0.034 * m, 0.026 * m]
    outline = limb(arm.shoulder, arm.elbow, biceps, triceps)
    canvas.part(sided(outline, side), looks.skin)
    centre = along(arm.shoulder, arm.elbow, 0.56, 0.014 * m)
    angle = float(np.arctan2(arm.elbow[1] - arm.shoulder[1], arm.elbow[0] - arm.shoulder[0]))
    canvas.tone(sided(ellipse(centre, (0.052, 0.021 * m), angle=angle), side), 40)
    split = [along(arm.shoulder, arm.elbow, share, -0.010 * m) for share in (0.35, 0.6, 0.95)]
    canvas.crease(sided(spline(split, closed=False), side), -44, width=0.008)
    deltoid = ellipse(along(arm.shoulder, arm.elbow, 0.06), (0.054, 0.041 * m), angle=angle)
    canvas.part(sided(deltoid, side), looks.skin, tone=6, contact=26)
    canvas.tone(sided(ellipse(shifted(arm.shoulder, 0.004, -0.012), (0.026, 0.018)), side), 40)


def draw_forearm(canvas: Canvas, arm: Arm, side: int, build: Build, looks: Looks) -> None:
    """Draw a forearm and its fist."""
    m = build.muscle
    outer = [0.028 * m, 0.037 * m, 0.033 * m, 0.024 * m, 0.018]
    inner = [0.027 * m, 0.034 * m, 0.030 * m, 0.022 * m, 0.018]
    canvas.part(sided(limb(arm.elbow, arm.wrist, outer, inner), side), looks.skin)
    angle = float(np.arctan2(arm.wrist[1] - arm.elbow[1], arm.wrist[0] - arm.elbow[0]))
    belly = ellipse(along(arm.elbow, arm.wrist, 0.32, 0.010), (0.040, 0.014), angle=angle)
    canvas.tone(sided(belly, side), 36)
    seam = [along(arm.elbow, arm.wrist, share, -0.006) for share in (0.15, 0.5, 0.85)]
    canvas.crease(sided(spline(seam, closed=False), side), -36, width=0.007)
    _fist(canvas, along(arm.elbow, arm.wrist, 1.12), angle, side, looks)


def _fist(canvas: Canvas, centre: Point, angle: float, side: int, looks: Looks) -> None:
    canvas.part(sided(ellipse(centre, (0.027, 0.023), angle=angle), side), looks.skin, tone=4)
    for offset in (-0.010, 0.0, 0.010):  # fingers
        start = (
            centre[0] + 0.006 * np.cos(angle) - offset * np.sin(angle),
            centre[1] + 0.006 * np.sin(angle) + offset * np.cos(angle),
        )
        end = (start[0] + 0.016 * np.cos(angle), start[1] + 0.016 * np.sin(angle))
        canvas.stroke(sided(np.array([start, end]), side), darker(looks.skin, 0.66), width=0.0022)


def sided(outline: Points, side: int) -> Points:
    """Mirror an outline that points outwards; side: 1 (unchanged) or -1."""
    mirrored: Points = outline * np.array([side, 1.0])
    return mirrored


def shifted(point: Point, dx: float, dy: float) -> Point:
    """Move a point by dx and dy."""
    return point[0] + dx, point[1] + dy
