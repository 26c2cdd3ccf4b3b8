"""The joints of people who hold no pose: standing relaxed, and half turned away.

Positions are in body units, as in `skeletons`. No arm is like the arms of one of the eight poses.
"""

from typing import Final, Literal, TypeAlias

import numpy as np

from physiq_ray.sample.canvas import Point
from physiq_ray.sample.skeletons import Arm, Build, Leg, Skeleton, jitter

ArmStance: TypeAlias = Literal["hanging", "folded", "phone", "around"]

_UPPER_ARM: Final = 0.156
_FOREARM: Final = 0.146
_SHOULDER_Y: Final = -0.272
_LAT_SHARE: Final = 0.97  # of the shoulders, as in poses without spread lats
_FLOOR_SLOPE: Final = 0.16  # how much lower in the photo a foot is for each body unit towards the camera


def build_relaxed(arms: tuple[ArmStance, ArmStance], build: Build, rng: np.random.Generator) -> Skeleton:
    """Build the joints of a person who stands relaxed, seen from the front or from behind.

    As in a facing pose, joints point outwards. An arm hangs, is folded over the chest, holds a phone in front
    of the shoulder, or lies around the shoulders of somebody next to it.
    """
    bent = int(rng.integers(4))  # in half of the photos, one leg carries the weight
    first, second = (_relaxed_leg(build, rng, is_bent=index == bent) for index in range(2))
    return Skeleton(
        head=jitter((0.0, -0.402), rng, 0.008),
        arms=(_relaxed_arm(arms[0], build, rng), _relaxed_arm(arms[1], build, rng)),
        legs=(first, second),
        lat=build.shoulder * _LAT_SHARE + float(rng.normal(0, 0.003)),
        trap=0.0,
    )


def build_turned(angle: float, build: Build, rng: np.random.Generator) -> Skeleton:
    """Build the joints of a relaxed person who looks to x > 0 and away from the camera by `angle`.

    angle: radians, 0 faces the camera and π shows the back. Joints are where the photo shows them, not
    outwards; the far arm and the far leg are first, as in a profile.
    """
    facing, sideways = float(np.cos(angle)), float(np.sin(angle))
    step = float(rng.normal(0.0, 0.035))  # of the far foot; the near one steps the other way

    def seen(lateral: float, y: float, forward: float, sigma: float) -> Point:
        """Project a point of the body; lateral > 0: on the side that is away from the camera."""
        return jitter((lateral * facing + forward * sideways, y), rng, sigma)

    def arm(lateral: float, swing: float) -> Arm:
        upper, lower = _UPPER_ARM * build.arm, _FOREARM * build.arm
        spread = float(rng.uniform(0.10, 0.20)) * (1 if lateral > 0 else -1)
        bent = swing + float(rng.uniform(0.10, 0.45))  # the elbow bends forwards
        x, y, z = lateral + upper * np.sin(spread), _SHOULDER_Y + upper * np.cos(swing), upper * np.sin(swing)
        return Arm(
            seen(lateral, _SHOULDER_Y, 0.004, 0.004),
            seen(x, y, z, 0.006),
            seen(x, y + lower * np.cos(bent), z + lower * np.sin(bent), 0.006),
        )

    def leg(lateral: float, forward: float) -> Leg:
        ankle_y = 0.458 * build.leg + _FLOOR_SLOPE * (forward * facing - lateral * sideways)
        return Leg(
            seen(lateral, 0.024, 0.0, 0.002),
            seen(lateral * 1.1, 0.5 * (0.024 + ankle_y) + 0.010, 0.014 + forward * 0.55, 0.006),
            seen(lateral * 1.2, ankle_y, forward - 0.006, 0.006),
            is_on_toes=False,
        )

    swing = float(rng.normal(0.0, 0.08))
    hip = build.hip * 0.56
    return Skeleton(
        head=jitter((0.014 * sideways, -0.402), rng, 0.006),
        arms=(arm(build.shoulder * 0.94, swing - step * 3), arm(-build.shoulder * 0.94, swing + step * 3)),
        legs=(leg(hip, step), leg(-hip, -step)),
        lat=build.shoulder * _LAT_SHARE,
        trap=0.0,
    )


# The angles of upper arm and forearm (radians from straight down, positive away from the spine), and the
# shares of their lengths that the photo shows.
_ARMS: Final[dict[ArmStance, tuple[tuple[float, float], tuple[float, float], float, float]]] = {
    "hanging": ((0.10, 0.30), (-0.12, 0.18), 1.0, 1.0),
    "folded": ((0.00, 0.14), (-1.86, -1.66), 0.95, 1.2),
    "phone": ((0.08, 0.30), (-2.75, -2.35), 1.0, 1.0),
    "around": ((1.45, 1.65), (1.50, 1.75), 0.8, 0.9),
}


def _relaxed_arm(stance: ArmStance, build: Build, rng: np.random.Generator) -> Arm:
    upper_angles, lower_angles, upper_share, lower_share = _ARMS[stance]
    shoulder = jitter((build.shoulder, _SHOULDER_Y), rng, 0.003)
    elbow = _reach(shoulder, float(rng.uniform(*upper_angles)), _UPPER_ARM * upper_share * build.arm)
    wrist = _reach(elbow, float(rng.uniform(*lower_angles)), _FOREARM * lower_share * build.arm)
    return Arm(shoulder, elbow, wrist)


def _relaxed_leg(build: Build, rng: np.random.Generator, *, is_bent: bool) -> Leg:
    hip = (build.hip * 0.62, 0.022)
    stance = float(rng.uniform(-0.012, 0.020))
    knee = (hip[0] + 0.010 + stance, 0.255 * build.leg)
    ankle = (hip[0] + 0.010 + stance * 2.0, 0.462 * build.leg)
    if is_bent:
        knee, ankle = (knee[0] + 0.020, knee[1] + 0.006), (ankle[0] + 0.018, ankle[1] + 0.014)
    return Leg(hip, jitter(knee, rng, 0.007), jitter(ankle, rng, 0.006), is_on_toes=False)


def _reach(start: Point, angle: float, length: float) -> Point:
    """Give the end of a limb; angle: from straight down, in radians, positive to x > 0."""
    return start[0] + length * float(np.sin(angle)), start[1] + length * float(np.cos(angle))
