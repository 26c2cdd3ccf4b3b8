"""Draw a figure from the side, which looks to x > 0: torso, head, trunks, legs.

Lengths are in body units. Tones are -127 … 127, as in Canvas.tone.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from physiq_ray.sample.arms import Looks, draw_forearm, draw_upper_arm
from physiq_ray.sample.canvas import Canvas, Point, Points, along, darker, ellipse, limb, spline
from physiq_ray.sample.skeletons import SIDE_TRICEPS, Build, Leg, Skeleton

SKULL: Final[tuple[Point, ...]] = (  # relative to the centre of a head of size 1
    (-0.004, -0.066),
    (0.030, -0.056),
    (0.044, -0.026),
    (0.046, -0.006),
    (0.056, 0.014),
    (0.046, 0.020),
    (0.047, 0.034),
    (0.040, 0.058),
    (0.018, 0.060),
    (-0.012, 0.046),
    (-0.040, 0.030),
    (-0.054, -0.010),
    (-0.040, -0.052),
)


def draw_profile(canvas: Canvas, pose_id: int, skeleton: Skeleton, build: Build, looks: Looks) -> None:
    """Draw the whole figure from the side."""
    far_arm, near_arm = skeleton.arms
    far_leg, near_leg = skeleton.legs
    shaded = replace(looks, skin=darker(looks.skin, 0.80))
    _profile_leg(canvas, far_leg, build, shaded)
    if pose_id == SIDE_TRICEPS:
        draw_upper_arm(canvas, far_arm, 1, build, shaded)
        draw_forearm(canvas, far_arm, 1, build, shaded)
    _profile_leg(canvas, near_leg, build, looks)
    _profile_torso(canvas, skeleton, build, looks)
    if pose_id != SIDE_TRICEPS:
        draw_forearm(canvas, far_arm, 1, build, shaded)
    _profile_head(canvas, skeleton.head, build, looks)
    draw_upper_arm(canvas, near_arm, 1, build, looks)
    draw_forearm(canvas, near_arm, 1, build, looks)


def torso_outline(skeleton: Skeleton, build: Build) -> list[Point]:
    """Give the outline of the torso, clockwise from the nape: first the back, then the front."""
    depth = build.waist / 0.07
    chest = skeleton.lat * depth**0.5
    return [
        (-0.022, -0.345),
        (-0.050, -0.305),
        (-0.084 * depth, -0.240),
        (-0.072 * depth, -0.165),
        (-0.046 * depth, -0.085),
        (-0.046 * depth, -0.030),
        (-0.078 * depth, 0.022),
        (-0.072 * depth, 0.070),
        (-0.020, 0.098),
        (0.045, 0.075),
        (0.056 * depth, 0.010),
        (0.050 * depth, -0.060),
        (0.062 * depth, -0.130),
        (chest * 0.875, -0.175),
        (chest, -0.222),
        (chest * 0.714, -0.272),
        (0.040, -0.300),
        (0.034, -0.345),
    ]


def _profile_torso(canvas: Canvas, skeleton: Skeleton, build: Build, looks: Looks) -> None:
    depth = build.waist / 0.07
    chest = skeleton.lat * depth**0.5
    line = darker(looks.skin, 0.62)
    outline = torso_outline(skeleton, build)
    canvas.part(spline(outline), looks.skin)
    canvas.tone(
        spline([(-0.05, -0.30), (-0.085, -0.24), (-0.046, -0.08), (-0.02, -0.09), (-0.035, -0.22)]), -30
    )
    pec = [
        (0.03, -0.268),
        (chest * 0.714, -0.262),
        (chest * 0.91, -0.222),
        (chest * 0.786, -0.180),
        (0.035, -0.178),
    ]
    canvas.tone(spline(pec), 42)
    under = spline([(0.02, -0.168), (0.055, -0.168), (chest * 0.82, -0.178)], closed=False)
    canvas.crease(under, -66, width=0.012)
    canvas.stroke(under, line, width=0.0026)
    for row in range(4):
        y = -0.135 + row * 0.032
        canvas.tone(ellipse((0.036 * depth, y), (0.014, 0.013)), 36)
        canvas.crease(np.array([(0.020, y + 0.016), (0.052 * depth, y + 0.017)]), -46, width=0.006)
    for row in range(4):
        y = -0.150 + row * 0.020
        canvas.crease(np.array([(0.018, y), (-0.004, y + 0.014)]), -40, width=0.007)
    canvas.crease(spline([(0.012, -0.13), (0.006, -0.06), (0.022, 0.0)], closed=False), -40, width=0.010)
    if looks.top is not None:
        band = [
            (-0.066 * depth, -0.222),
            (chest * 0.875, -0.252),
            (chest * 0.98, -0.222),
            (chest * 0.80, -0.168),
            (-0.058 * depth, -0.172),
        ]
        canvas.patch(np.array(band), looks.top)
    leg_end = 0.075 + 0.07 * looks.trunks_length
    trunks = [
        (-0.056 * depth, -0.006),
        (0.056 * depth, 0.006),
        (0.068 * depth, 0.040),
        (0.018 + 0.062 * build.muscle, leg_end),
        (-0.030, leg_end + 0.018),
        (-0.076 * depth, 0.078),
        (-0.082 * depth, 0.030),
    ]
    canvas.part(np.array(trunks), looks.trunks, contact=40)
    canvas.tone(ellipse((-0.040 * depth, 0.040), (0.026, 0.030)), 38)
    canvas.stroke(np.array(trunks[:2]), darker(looks.trunks, 0.6), width=0.006)


def _profile_leg(canvas: Canvas, leg: Leg, build: Build, looks: Looks) -> None:
    m = build.muscle
    x, y = leg.ankle
    drop = 0.030 if not leg.is_on_toes else 0.052
    foot = [
        (x - 0.024, y + 0.004),
        (x + 0.012, y - 0.014),
        (x + 0.078, y + drop - 0.006),
        (x + 0.076, y + drop + 0.006),
        (x - 0.022, y + 0.030),
    ]
    canvas.part(spline(foot), looks.shoes or looks.skin)
    shin = [0.030 * m, 0.031 * m, 0.026 * m, 0.020 * m, 0.018]
    calf = [0.028 * m, 0.050 * m, 0.048 * m, 0.026 * m, 0.018]
    canvas.part(limb(leg.knee, leg.ankle, shin, calf), looks.skin)
    canvas.tone(ellipse(along(leg.knee, leg.ankle, 0.32, -0.022 * m), (0.016 * m, 0.046)), 40)
    seam = [along(leg.knee, leg.ankle, share, -0.004) for share in (0.15, 0.45, 0.8)]
    canvas.crease(spline(seam, closed=False), -48, width=0.008)
    quad = [0.044 * m, 0.058 * m, 0.060 * m, 0.050 * m, 0.034 * m]
    ham = [0.056 * m, 0.058 * m, 0.052 * m, 0.040 * m, 0.030 * m]
    canvas.part(limb(leg.hip, leg.knee, quad, ham), looks.skin)
    canvas.tone(ellipse(along(leg.hip, leg.knee, 0.52, 0.026 * m), (0.022 * m, 0.066), angle=-0.25), 38)
    canvas.tone(ellipse(along(leg.hip, leg.knee, 0.58, -0.026 * m), (0.016 * m, 0.056), angle=-0.25), 28)
    split = [along(leg.hip, leg.knee, share, -0.006 * m) for share in (0.3, 0.6, 0.92)]
    canvas.crease(spline(split, closed=False), -54, width=0.009)


def _profile_head(canvas: Canvas, centre: Point, build: Build, looks: Looks) -> None:
    x, y = centre
    size = build.head
    if looks.hair_style == "long":
        mane = [(-0.02, -0.06), (-0.058, -0.02), (-0.056, 0.09), (-0.02, 0.10), (0.0, 0.0)]
        canvas.part(spline(_at(centre, size, mane)), looks.hair)
    canvas.part(spline(_at(centre, size, SKULL)), looks.skin)
    draw_side_of_head(canvas, centre, size, looks)
    canvas.patch(ellipse((x + 0.031 * size, y - 0.008 * size), (0.0065, 0.0048)), (240, 238, 232))
    canvas.patch(ellipse((x + 0.034 * size, y - 0.008 * size), (0.0036, 0.0046)), (40, 30, 26))
    brow, mouth = [(0.020, -0.020), (0.040, -0.020)], [(0.030, 0.036), (0.045, 0.035)]
    canvas.stroke(_at(centre, size, brow), darker(looks.hair, 0.7), width=0.004)
    canvas.stroke(_at(centre, size, mouth), (126, 58, 54), width=0.004)


def draw_side_of_head(canvas: Canvas, centre: Point, size: float, looks: Looks) -> None:
    """Draw beard, hair and ear on the side of a head of relative `size`."""
    x, y = centre
    if looks.has_beard:
        beard = [
            (0.042, 0.046),
            (0.034, 0.060),
            (0.012, 0.060),
            (-0.012, 0.040),
            (-0.004, 0.014),
            (0.014, 0.034),
        ]
        canvas.patch(spline(_at(centre, size, beard)), looks.hair)
    if looks.hair_style != "bald":
        cap = [
            (0.036, -0.052),
            (0.006, -0.076),
            (-0.040, -0.062),
            (-0.062, -0.012),
            (-0.046, 0.036),
            (-0.024, 0.026),
            (-0.012, -0.010),
            (0.006, -0.026),
            (0.030, -0.034),
        ]
        canvas.part(spline(_at(centre, size, cap)), looks.hair, contact=20)
    if looks.hair_style == "bun":
        canvas.part(ellipse((x - 0.058 * size, y - 0.046 * size), (0.022, 0.020)), looks.hair)
    canvas.part(ellipse((x - 0.006 * size, y + 0.006), (0.009, 0.015)), darker(looks.skin, 0.92), contact=14)


def _at(centre: Point, size: float, points: Sequence[Point]) -> Points:
    return np.array([(centre[0] + dx * size, centre[1] + dy * size) for dx, dy in points])
