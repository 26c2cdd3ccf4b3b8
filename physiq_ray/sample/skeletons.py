"""The joints of an athlete in the eight poses: shoulders, elbows, hands, knees and feet.

Positions are in body units (standing height about 1, origin at the pelvis, y down). Arms and legs of a figure
seen from the front or from behind point outwards: x > 0 is away from the spine on both sides. A profile looks
to x > 0. Every joint gets some jitter, so that no two photos have the same angles.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from physiq_ray.sample.canvas import Point

FRONT_LAT_SPREAD: Final = 1
FRONT_DOUBLE_BICEPS: Final = 2
BACK_DOUBLE_BICEPS: Final = 5
MOST_MUSCULAR: Final = 6
BACK_LAT_SPREAD: Final = 7
ABS_AND_THIGHS: Final = 11
SIDE_CHEST: Final = 14
SIDE_TRICEPS: Final = 16

POSE_IDS: Final = (
    FRONT_LAT_SPREAD,
    FRONT_DOUBLE_BICEPS,
    BACK_DOUBLE_BICEPS,
    MOST_MUSCULAR,
    BACK_LAT_SPREAD,
    ABS_AND_THIGHS,
    SIDE_CHEST,
    SIDE_TRICEPS,
)
BACK_POSE_IDS: Final = frozenset({BACK_DOUBLE_BICEPS, BACK_LAT_SPREAD})
PROFILE_POSE_IDS: Final = frozenset({SIDE_CHEST, SIDE_TRICEPS})


@dataclass(frozen=True)
class Build:
    """The proportions of an athlete; half widths and lengths in body units."""

    shoulder: float
    waist: float
    hip: float
    muscle: float  # thickness of the limbs, 1 is normal
    arm: float  # length of the limbs, 1 is normal
    leg: float
    head: float


@dataclass(frozen=True)
class Arm:
    """Shoulder, elbow and wrist."""

    shoulder: Point
    elbow: Point
    wrist: Point


@dataclass(frozen=True)
class Leg:
    """Hip, knee and ankle; is_on_toes: the heel is raised."""

    hip: Point
    knee: Point
    ankle: Point
    is_on_toes: bool


@dataclass(frozen=True)
class Skeleton:
    """The joints of one figure; arms and legs are in drawing order.

    The first one is the right one in the photo; in a profile, the far one.
    """

    head: Point
    arms: tuple[Arm, Arm]
    legs: tuple[Leg, Leg]
    lat: float  # half width of the torso below the arms; in a profile, x of the chest
    trap: float  # how far the shoulders are raised


def build_skeleton(pose_id: int, build: Build, rng: np.random.Generator) -> Skeleton:
    """Build the joints of a pose for an athlete. Raises KeyError: the pose is not in POSE_IDS."""
    if pose_id in PROFILE_POSE_IDS:
        return _profile(pose_id, build, rng)
    return _facing(pose_id, build, rng)


# The elbow relative to the shoulder, and the wrist: relative to the elbow (True) or to the body (False).
_FACING_ARMS: Final[dict[int, tuple[Point, Point, bool]]] = {
    FRONT_LAT_SPREAD: ((0.112, 0.112), (0.020, -0.040), False),
    BACK_LAT_SPREAD: ((0.112, 0.112), (0.012, -0.040), False),
    FRONT_DOUBLE_BICEPS: ((0.155, -0.018), (-0.040, -0.140), True),
    BACK_DOUBLE_BICEPS: ((0.152, -0.018), (-0.040, -0.140), True),
    MOST_MUSCULAR: ((0.058, 0.150), (-0.054, -0.035), False),
    ABS_AND_THIGHS: ((0.072, -0.138), (-0.045, -0.385), False),
}


def _facing(pose_id: int, build: Build, rng: np.random.Generator) -> Skeleton:
    to_elbow, to_wrist, is_from_elbow = _FACING_ARMS[pose_id]
    crouch = {MOST_MUSCULAR: 0.040, ABS_AND_THIGHS: 0.008}.get(pose_id, 0.0)
    raised = {MOST_MUSCULAR: 0.030, FRONT_DOUBLE_BICEPS: 0.006, BACK_DOUBLE_BICEPS: 0.006}.get(pose_id, 0.0)
    is_spread = pose_id in (FRONT_LAT_SPREAD, BACK_LAT_SPREAD)
    together = 0.02 if pose_id == MOST_MUSCULAR else 0.0

    def arm() -> Arm:
        shoulder = jitter((build.shoulder - together / 2, -0.272 - raised + crouch), rng, 0.003)
        elbow = jitter(_from(shoulder, to_elbow, build.arm), rng, 0.011)
        if is_from_elbow:
            wrist = _from(elbow, to_wrist, build.arm)
        elif pose_id == ABS_AND_THIGHS:
            wrist = (build.shoulder + to_wrist[0] - 0.04, to_wrist[1])
        else:
            wrist = (build.waist + to_wrist[0], to_wrist[1])
        return Arm(shoulder, elbow, jitter(wrist, rng, 0.010 if is_from_elbow else 0.006))

    def leg(*, is_forward: bool, is_back: bool) -> Leg:
        hip = (build.hip * 0.62, 0.022)
        stance = float(rng.uniform(-0.008, 0.022)) + (0.018 if pose_id == MOST_MUSCULAR else 0.0)
        knee = (build.hip * 0.62 + 0.012 + stance, 0.255 * build.leg)
        ankle = (build.hip * 0.62 + 0.012 + stance * 2.0, 0.462 * build.leg)
        if is_forward:
            knee, ankle = (knee[0] + 0.018, knee[1] + 0.004), (ankle[0] + 0.012, ankle[1] + 0.022)
        if is_back:
            knee, ankle = (knee[0] + 0.012, knee[1] + 0.008), (ankle[0] - 0.004, ankle[1] - 0.012)
        return Leg(hip, jitter(knee, rng, 0.007), jitter(ankle, rng, 0.006), is_back)

    is_back_pose = pose_id in BACK_POSE_IDS
    first, second = (
        leg(is_forward=pose_id == ABS_AND_THIGHS and side == 0, is_back=is_back_pose and side == 0)
        for side in range(2)
    )
    return Skeleton(
        head=jitter((0.0, -0.402 + crouch * 1.7), rng, 0.006),
        arms=(arm(), arm()),
        legs=(first, second),
        lat=build.shoulder * (1.13 if is_spread else 0.97) + float(rng.normal(0, 0.003)),
        trap=raised,
    )


# (near shoulder, elbow, wrist), (far shoulder, elbow, wrist)
_PROFILE_ARMS: Final[dict[int, tuple[tuple[Point, Point, Point], tuple[Point, Point, Point]]]] = {
    SIDE_CHEST: (
        ((-0.012, -0.252), (-0.066, -0.118), (0.132, -0.122)),
        ((0.045, -0.250), (0.082, -0.176), (0.148, -0.130)),
    ),
    SIDE_TRICEPS: (
        ((-0.026, -0.252), (-0.098, -0.104), (-0.150, 0.030)),
        ((-0.044, -0.250), (-0.136, -0.126), (-0.160, 0.010)),
    ),
}


def _profile(pose_id: int, build: Build, rng: np.random.Generator) -> Skeleton:
    near, far = _PROFILE_ARMS[pose_id]
    is_chest = pose_id == SIDE_CHEST

    def arm(joints: tuple[Point, Point, Point]) -> Arm:
        shoulder, elbow, wrist = joints
        return Arm(
            jitter(shoulder, rng, 0.004),
            jitter(_from(shoulder, (elbow[0] - shoulder[0], elbow[1] - shoulder[1]), build.arm), rng, 0.008),
            jitter(wrist, rng, 0.009),
        )

    lift = float(rng.uniform(0.008, 0.03))
    stride = float(rng.normal(0.0, 0.014))
    near_leg = Leg(
        (-0.008, 0.030),
        jitter((0.088 if is_chest else 0.006, 0.235 * build.leg), rng, 0.010),
        jitter(((0.006 if is_chest else -0.085) + stride, 0.452 * build.leg - lift), rng, 0.010),
        is_on_toes=True,
    )
    far_leg = Leg(
        (0.004, 0.030),
        jitter((0.012 if is_chest else 0.034, 0.252 * build.leg), rng, 0.008),
        jitter(((-0.002 if is_chest else 0.030) - stride, 0.456 * build.leg), rng, 0.008),
        is_on_toes=False,
    )
    return Skeleton(
        head=jitter((0.022, -0.400), rng, 0.007),
        arms=(arm(far), arm(near)),
        legs=(far_leg, near_leg),
        lat=0.130 if is_chest else 0.102,
        trap=0.0,
    )


def jitter(point: Point, rng: np.random.Generator, sigma: float) -> Point:
    """Move a point by a random distance: in x and y each with deviation `sigma`, and at most 2.2 of it."""
    dx, dy = np.clip(rng.normal(0.0, sigma, 2), -2.2 * sigma, 2.2 * sigma)
    return point[0] + float(dx), point[1] + float(dy)


def _from(origin: Point, offset: Point, share: float) -> Point:
    return origin[0] + offset[0] * share, origin[1] + offset[1] * share
