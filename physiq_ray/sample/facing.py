"""Draw a figure from the front or from behind: torso, head, trunks, legs.

Parts are drawn from far to near; the pose decides whether an arm is in front of the torso. Lengths are in
body units. Tones are -127 … 127, as in Canvas.tone.
"""

from typing import Final

import numpy as np

from physiq_ray.sample.arms import Looks, draw_forearm, draw_upper_arm, shifted, sided
from physiq_ray.sample.canvas import Canvas, Colour, Point, along, darker, ellipse, limb, spline
from physiq_ray.sample.skeletons import ABS_AND_THIGHS, BACK_LAT_SPREAD, Build, Leg, Skeleton

SKULL: Final[tuple[Point, ...]] = (  # relative to the centre of a head of size 1
    (0.0, -0.064),
    (0.034, -0.052),
    (0.045, -0.010),
    (0.038, 0.034),
    (0.016, 0.064),
    (-0.016, 0.064),
    (-0.038, 0.034),
    (-0.045, -0.010),
    (-0.034, -0.052),
)


def draw_facing(
    canvas: Canvas, pose_id: int | None, skeleton: Skeleton, build: Build, looks: Looks, *, is_back: bool
) -> None:
    """Draw the whole figure from the front or from behind; pose_id None: no pose, the arms are in front."""
    sides = tuple(zip((1, -1), skeleton.arms, skeleton.legs, strict=True))
    for side, _, leg in reversed(sides):
        draw_leg(canvas, leg, side, build, looks, is_back=is_back)
    if looks.hair_style == "long" and not is_back:
        canvas.part(ellipse(shifted(skeleton.head, 0, 0.03), (0.056, 0.078)), darker(looks.hair, 0.8))
    if pose_id == BACK_LAT_SPREAD:
        for side, arm, _ in sides:
            draw_forearm(canvas, arm, side, build, looks)
            draw_upper_arm(canvas, arm, side, build, looks)
    if pose_id == ABS_AND_THIGHS:
        for side, arm, _ in sides:
            draw_forearm(canvas, arm, side, build, looks)
    draw_torso(canvas, skeleton, build, looks, is_back=is_back)
    if pose_id == ABS_AND_THIGHS:
        for side, arm, _ in sides:
            draw_upper_arm(canvas, arm, side, build, looks)
    _head(canvas, skeleton.head, build, looks, is_back=is_back)
    if pose_id in (BACK_LAT_SPREAD, ABS_AND_THIGHS):
        return
    for side, arm, _ in sides:
        draw_upper_arm(canvas, arm, side, build, looks)
        draw_forearm(canvas, arm, side, build, looks)


def torso_half(skeleton: Skeleton, build: Build) -> list[Point]:
    """Give the outline of the torso at x > 0, from the neck down."""
    top, shoulder = _shoulders(skeleton)
    lat, waist, hip = skeleton.lat, build.waist, build.hip
    return [
        (0.030, top - 0.082),
        (0.040, top - 0.052 - skeleton.trap * 0.5),
        (shoulder * 0.72, top - 0.032 - skeleton.trap * 0.3),
        (shoulder * 1.04, top - 0.018),
        (shoulder * 1.02, top + 0.035),
        (lat, top + 0.085),
        (lat * 0.90, top + 0.130),
        (waist * 1.07, -0.085),
        (waist, -0.050),
        (hip * 0.99, -0.002),
        (hip * 0.90, 0.045),
        (0.018, 0.078),
    ]


def _shoulders(skeleton: Skeleton) -> tuple[float, float]:
    """Give the mean height of the shoulders, and their mean distance from the spine."""
    top = (skeleton.arms[0].shoulder[1] + skeleton.arms[1].shoulder[1]) / 2
    shoulder = (skeleton.arms[0].shoulder[0] + skeleton.arms[1].shoulder[0]) / 2
    return top, shoulder


def draw_torso(canvas: Canvas, skeleton: Skeleton, build: Build, looks: Looks, *, is_back: bool) -> None:
    """Draw the torso and the clothes."""
    top, shoulder = _shoulders(skeleton)
    lat, waist, hip = skeleton.lat, build.waist, build.hip
    half = torso_half(skeleton, build)
    outline = spline([*half, *((-x, y) for x, y in reversed(half))])
    canvas.part(outline, looks.skin)
    for side in (1, -1):  # the flanks get less light
        flank = [(shoulder, top), (lat, top + 0.085), (waist, -0.05), (hip, 0.0), (hip * 0.78, 0.0)]
        inner = [(waist * 0.72, -0.06), (lat * 0.72, top + 0.115), (shoulder * 0.8, top + 0.03)]
        canvas.tone(sided(spline([*flank, *inner]), side), -26)
    if is_back:
        _back_muscles(canvas, top, shoulder, lat, waist)
    else:
        _front_muscles(canvas, top, shoulder, lat, waist, looks)
    if looks.top is not None:
        _top(canvas, looks.top, top, shoulder, lat, is_back=is_back)
    _trunks(canvas, build, looks, is_back=is_back)


def _front_muscles(
    canvas: Canvas, top: float, shoulder: float, lat: float, waist: float, looks: Looks
) -> None:
    line = darker(looks.skin, 0.62)
    canvas.tone(spline([(-0.03, top - 0.08), (0.03, top - 0.08), (0.0, top - 0.028)]), -38)  # throat
    chest_end = top + 0.088
    for side in (1, -1):
        pec = [
            (0.006, top - 0.012),
            (shoulder * 0.60, top - 0.012),
            (shoulder * 0.93, top + 0.022),
            (shoulder * 0.80, top + 0.068),
            (shoulder * 0.42, chest_end),
            (0.006, top + 0.074),
        ]
        canvas.tone(sided(spline(pec), side), 22)
        canvas.tone(sided(ellipse((shoulder * 0.48, top + 0.028), (shoulder * 0.30, 0.022)), side), 40)
        curve = spline([pec[5], pec[4], pec[3], pec[2]], closed=False)
        canvas.crease(sided(curve, side), -62, width=0.014)
        canvas.stroke(sided(curve, side), line, width=0.0026)
        canvas.patch(
            sided(ellipse((shoulder * 0.62, top + 0.060), (0.006, 0.005)), side), darker(looks.skin, 0.6)
        )
        clavicle = spline(
            [(0.012, top - 0.026), (0.05, top - 0.028), (shoulder * 0.8, top - 0.024)], closed=False
        )
        canvas.crease(sided(clavicle, side), -34, width=0.006)
        ribs = (-0.02 - chest_end) / 4.0
        for row in range(3):  # serratus
            y = chest_end + 0.012 + row * 0.022
            x = (lat * 0.78 - waist * 0.8) * (1 - row / 3) + waist * 0.78
            canvas.crease(sided(np.array([(x, y), (x - 0.018, y + 0.014)]), side), -42, width=0.007)
        for row in range(3):
            y = chest_end + 0.020 + row * ribs
            brick = ellipse((waist * 0.27, y + ribs * 0.40), (waist * 0.22, ribs * 0.38))
            canvas.tone(sided(brick, side), 38)
        flank = spline(
            [(waist * 0.62, chest_end + 0.01), (waist * 0.58, -0.08), (waist * 0.70, -0.02)], closed=False
        )
        canvas.crease(sided(flank, side), -44, width=0.010)
        groin = spline([(waist * 0.95, -0.035), (waist * 0.62, 0.0), (0.02, 0.03)], closed=False)
        canvas.crease(sided(groin, side), -46, width=0.009)
        for row in range(1, 4):
            y = chest_end + 0.018 + row * ribs
            row_line = np.array([(0.0, y), (waist * 0.46, y - 0.003)])
            canvas.crease(sided(row_line, side), -50, width=0.007)
            canvas.stroke(sided(row_line, side), line, width=0.0018)
    middle = np.array([(0.0, top + 0.0), (0.0, -0.02)])
    canvas.crease(middle, -56, width=0.007)
    canvas.stroke(middle, line, width=0.0018)
    canvas.patch(ellipse((0.0, -0.030), (0.0045, 0.006)), darker(looks.skin, 0.42))


def _back_muscles(canvas: Canvas, top: float, shoulder: float, lat: float, waist: float) -> None:
    kite = [(0.0, top - 0.09), (shoulder * 0.62, top - 0.022), (0.03, top + 0.06), (0.0, top + 0.125)]
    for side in (1, -1):
        canvas.tone(sided(spline(kite), side), 24)
        canvas.crease(
            sided(spline([kite[1], (0.052, top + 0.03), kite[3]], closed=False), side), -78, width=0.016
        )
        blade = ellipse((shoulder * 0.62, top + 0.030), (shoulder * 0.22, 0.026), angle=0.5)
        canvas.tone(sided(blade, side), 36)
        rim = spline(
            [(shoulder * 0.95, top + 0.045), (shoulder * 0.62, top + 0.064), (shoulder * 0.38, top + 0.05)],
            closed=False,
        )
        canvas.crease(sided(rim, side), -54, width=0.010)
        wing = [
            (lat * 0.88, top + 0.075),
            (lat * 0.80, top + 0.115),
            (waist * 0.85, -0.095),
            (waist * 0.45, -0.07),
            (lat * 0.36, top + 0.10),
        ]
        canvas.tone(sided(spline(wing), side), 26)
        edge = spline([(0.006, -0.062), (waist * 0.5, -0.088), (waist * 0.98, -0.112)], closed=False)
        canvas.crease(sided(edge, side), -50, width=0.010)
        canvas.tone(sided(ellipse((0.018, -0.045), (0.013, 0.050)), side), 34)
    canvas.crease(np.array([(0.0, top - 0.04), (0.0, 0.0)]), -100, width=0.018)


def _top(canvas: Canvas, colour: Colour, top: float, shoulder: float, lat: float, *, is_back: bool) -> None:
    """Draw a sports top: a wide band at the front, or a narrow one with crossed straps at the back."""
    upper, lower = (top + 0.045, top + 0.075) if is_back else (top + 0.018, top + 0.092)
    reach = shoulder * 0.98
    band = [(-reach, upper + 0.012), (0.0, upper + 0.008), (reach, upper + 0.012)]
    under = [(min(lat, reach), lower), (0.0, lower + 0.004), (-min(lat, reach), lower)]
    canvas.patch(np.array([*band, *under]), colour)
    for side in (1, -1):
        end = (0.0, upper + 0.03) if is_back else (shoulder * 0.55, upper + 0.02)
        canvas.stroke(sided(np.array([(shoulder * 0.5, top - 0.034), end]), side), colour, width=0.014)
    canvas.stroke(np.array(under), darker(colour, 0.6), width=0.004)


def _trunks(canvas: Canvas, build: Build, looks: Looks, *, is_back: bool) -> None:
    hip = build.hip * 1.02
    leg_end = 0.050 + 0.075 * looks.trunks_length
    thigh = build.hip * 0.62 + 0.062 * build.muscle  # the largest x of a thigh
    half = [
        (0.0, 0.012 if not is_back else 0.004),
        (hip * 0.98, -0.006),
        (max(hip * 1.03, thigh * 0.95), 0.030),
        (max(hip * 1.03, thigh * (1.0 + 0.1 * looks.trunks_length)), leg_end),
        (hip * 0.55, leg_end + 0.022),
        (0.016, max(0.092, leg_end - 0.004)),
        (0.0, 0.094),
    ]
    smooth = np.array([*half, *((-x, y) for x, y in reversed(half[1:-1]))])
    canvas.part(smooth, looks.trunks, contact=40)
    canvas.stroke(sided(np.array([half[0], half[1]]), 1), darker(looks.trunks, 0.6), width=0.006)
    canvas.stroke(sided(np.array([half[0], half[1]]), -1), darker(looks.trunks, 0.6), width=0.006)
    for side in (1, -1):
        centre, radii = (
            ((hip * 0.48, 0.045), (hip * 0.36, 0.032)) if is_back else ((hip * 0.5, 0.03), (hip * 0.3, 0.02))
        )
        canvas.tone(sided(ellipse(centre, radii), side), 34 if is_back else 18)
    if is_back:
        canvas.crease(np.array([(0.0, 0.012), (0.0, 0.085)]), -70, width=0.009)


def _head(canvas: Canvas, centre: Point, build: Build, looks: Looks, *, is_back: bool) -> None:
    size = build.head
    x, y = centre
    for side in (1, -1):
        canvas.part(
            sided(ellipse((x * side + 0.044 * size, y + 0.006), (0.010, 0.016)), side),
            darker(looks.skin, 0.9),
        )
    skull = spline([(x + dx * size, y + dy * size) for dx, dy in SKULL])
    canvas.part(skull, looks.skin)
    if is_back:
        draw_hair_behind(canvas, centre, size, looks)
    else:
        draw_face(canvas, centre, size, looks)


def draw_hair_behind(canvas: Canvas, centre: Point, size: float, looks: Looks) -> None:
    """Draw the hair at the back of a head of relative `size`."""
    x, y = centre
    if looks.hair_style == "bald":
        canvas.tone(ellipse((x, y - 0.02), (0.026 * size, 0.03 * size)), 26)
        canvas.crease(np.array([(x - 0.02, y + 0.048), (x + 0.02, y + 0.048)]), -40, width=0.006)
        return
    nape = 0.085 if looks.hair_style == "long" else 0.036
    cap = [
        (x, y - 0.071 * size),
        (x + 0.040 * size, y - 0.052 * size),
        (x + 0.049 * size, y - 0.008 * size),
        (x + 0.036 * size, y + nape * size),
        (x, y + (nape + 0.008) * size),
        (x - 0.036 * size, y + nape * size),
        (x - 0.049 * size, y - 0.008 * size),
        (x - 0.040 * size, y - 0.052 * size),
    ]
    canvas.part(spline(cap), looks.hair)
    canvas.tone(ellipse((x - 0.01, y - 0.03), (0.018, 0.022)), 26)
    if looks.hair_style == "bun":
        canvas.part(ellipse((x, y - 0.066 * size), (0.024, 0.020)), looks.hair)


def draw_face(canvas: Canvas, centre: Point, size: float, looks: Looks) -> None:
    """Draw eyes, nose, mouth, beard and the hair over the forehead on a head of relative `size`."""
    x, y = centre
    line = darker(looks.skin, 0.5)
    if looks.has_beard:
        beard = [
            (-0.042, 0.0),
            (-0.036, 0.036),
            (-0.016, 0.068),
            (0.016, 0.068),
            (0.036, 0.036),
            (0.042, 0.0),
        ]
        inner = [(0.026, 0.022), (0.0, 0.020), (-0.026, 0.022)]
        canvas.patch(np.array([(x + dx * size, y + dy * size) for dx, dy in [*beard, *inner]]), looks.hair)
    if looks.hair_style != "bald":
        fringe = [
            (-0.049, 0.0),
            (-0.047, -0.046),
            (-0.026, -0.068),
            (0.0, -0.074),
            (0.026, -0.068),
            (0.047, -0.046),
            (0.049, 0.0),
            (0.038, -0.026),
            (0.014, -0.040),
            (-0.020, -0.036),
            (-0.038, -0.026),
        ]
        canvas.part(spline([(x + dx * size, y + dy * size) for dx, dy in fringe]), looks.hair, contact=20)
    if looks.hair_style == "bun":
        canvas.part(ellipse((x, y - 0.080 * size), (0.022, 0.018)), looks.hair)
    for side in (1, -1):
        eye = (x + side * 0.017 * size, y - 0.004 * size)
        canvas.patch(ellipse(eye, (0.0085 * size, 0.0052 * size)), (240, 238, 232))
        canvas.patch(ellipse(eye, (0.0042 * size, 0.0048 * size)), (40, 30, 26))
        brow = np.array([(eye[0] - side * 0.009, eye[1] - 0.010), (eye[0] + side * 0.011, eye[1] - 0.012)])
        canvas.stroke(brow, darker(looks.hair, 0.7), width=0.004)
        canvas.tone(ellipse((x + side * 0.024 * size, y + 0.016 * size), (0.010, 0.010)), 22)
    canvas.stroke(
        np.array([(x + 0.002, y), (x + 0.006, y + 0.018), (x - 0.003, y + 0.020)]), line, width=0.0026
    )
    canvas.stroke(
        np.array([(x - 0.013, y + 0.037), (x, y + 0.039), (x + 0.013, y + 0.036)]),
        (126, 58, 54),
        width=0.0045,
    )


def draw_leg(canvas: Canvas, leg: Leg, side: int, build: Build, looks: Looks, *, is_back: bool) -> None:
    """Draw a leg and its foot; side: 1 or -1, the side of the spine, as joints point outwards."""
    m = build.muscle
    _foot(canvas, leg, side, looks, is_back=is_back)
    calf_out = [0.030 * m, 0.043 * m, 0.041 * m, 0.026 * m, 0.019]
    calf_in = [0.030 * m, 0.040 * m, 0.043 * m, 0.027 * m, 0.019]
    canvas.part(sided(limb(leg.knee, leg.ankle, calf_out, calf_in), side), looks.skin)
    bulge = 66 if is_back else 34
    for offset in (0.017, -0.017):
        canvas.tone(
            sided(ellipse(along(leg.knee, leg.ankle, 0.34, offset * m), (0.013 * m, 0.048)), side), 34
        )
    split_end = 0.62 if is_back else 0.9
    split = np.array([along(leg.knee, leg.ankle, 0.16), along(leg.knee, leg.ankle, split_end)])
    canvas.crease(sided(split, side), -bulge, width=0.008)
    thigh_out = [0.046 * m, 0.062 * m, 0.064 * m, 0.052 * m, 0.033 * m]
    thigh_in = [0.040 * m, 0.050 * m, 0.050 * m, 0.046 * m, 0.031 * m]
    canvas.part(sided(limb(leg.hip, leg.knee, thigh_out, thigh_in), side), looks.skin)
    if is_back:
        for offset in (0.020, -0.018):
            ham = ellipse(along(leg.hip, leg.knee, 0.55, offset * m), (0.018 * m, 0.070))
            canvas.tone(sided(ham, side), 30)
        seam = np.array([along(leg.hip, leg.knee, 0.3), along(leg.hip, leg.knee, 0.92)])
        canvas.crease(sided(seam, side), -52, width=0.009)
        return
    rectus = ellipse(along(leg.hip, leg.knee, 0.48, 0.004), (0.020 * m, 0.075))
    canvas.tone(sided(rectus, side), 36)
    for offset in (0.036, -0.028):
        drop = ellipse(along(leg.hip, leg.knee, 0.72, offset * m), (0.014 * m, 0.036))
        canvas.tone(sided(drop, side), 34)
    for bend in (0.026, -0.022):
        seam = spline(
            [
                along(leg.hip, leg.knee, share, bend * m * swell)
                for share, swell in ((0.3, 0.9), (0.6, 1.0), (0.88, 0.5))
            ],
            closed=False,
        )
        canvas.crease(sided(seam, side), -46, width=0.008)
    canvas.tone(sided(ellipse(leg.knee, (0.018, 0.016)), side), 30)


def _foot(canvas: Canvas, leg: Leg, side: int, looks: Looks, *, is_back: bool) -> None:
    colour = looks.shoes or looks.skin
    x, y = leg.ankle
    if leg.is_on_toes:
        foot = [(x - 0.018, y - 0.01), (x + 0.018, y - 0.01), (x + 0.022, y + 0.040), (x - 0.014, y + 0.042)]
    elif is_back:
        foot = [(x - 0.020, y - 0.01), (x + 0.020, y - 0.01), (x + 0.026, y + 0.030), (x - 0.020, y + 0.030)]
    else:
        foot = [(x - 0.020, y - 0.01), (x + 0.020, y - 0.01), (x + 0.046, y + 0.036), (x - 0.014, y + 0.040)]
    canvas.part(sided(spline(foot), side), colour)
