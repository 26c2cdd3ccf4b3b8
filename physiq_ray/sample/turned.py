"""Draw a figure that is half turned: the muscles of the front or back view, wrapped around a rounded body.

At each height, the body is an ellipse: its width is that of the view from the front, its depth that of the
view from the side. Lengths are in body units.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from physiq_ray.sample import facing, profile
from physiq_ray.sample.arms import Looks, draw_forearm, draw_upper_arm
from physiq_ray.sample.canvas import Canvas, Point, Points, darker, ellipse, spline
from physiq_ray.sample.skeletons import Build, Skeleton

_CHEST: Final = 0.102  # x of the chest in a profile, as in Side Triceps


def draw_turned(canvas: Canvas, angle: float, skeleton: Skeleton, build: Build, looks: Looks) -> None:
    """Draw a person who looks to x > 0 and away from the camera by `angle`, with the joints of build_turned.

    angle: radians, 0 faces the camera and π shows the back; less than π / 2 draws the front.
    """
    is_back = angle > np.pi / 2
    far_arm, near_arm = skeleton.arms
    far_leg, near_leg = skeleton.legs
    shaded = replace(looks, skin=darker(looks.skin, 0.88))
    draw_upper_arm(canvas, far_arm, 1, build, shaded)
    draw_forearm(canvas, far_arm, 1, build, shaded)
    facing.draw_leg(canvas, far_leg, 1, build, shaded, is_back=is_back)
    facing.draw_leg(canvas, near_leg, 1, build, looks, is_back=is_back)
    _draw_torso(canvas, angle, skeleton, build, looks, is_back=is_back)
    _draw_head(canvas, angle, skeleton.head, build, looks, is_back=is_back)
    draw_upper_arm(canvas, near_arm, 1, build, looks)
    draw_forearm(canvas, near_arm, 1, build, looks)


@dataclass(frozen=True)
class _Solid:
    """A rounded body that is turned by `angle`; all arrays have one value per height `y`, which increases."""

    angle: float
    y: npt.NDArray[np.float64]
    width: npt.NDArray[np.float64]  # half of it
    depth: npt.NDArray[np.float64]  # half of it
    forward: npt.NDArray[np.float64]  # of the centre

    @classmethod
    def of(
        cls, angle: float, half: Sequence[Point], back: Sequence[Point], front: Sequence[Point]
    ) -> "_Solid":
        """Build it from the outline at x > 0 in the front view, and from both sides of the profile."""
        y, width = _by_height(half)
        behind, ahead = (np.interp(y, *_by_height(side)) for side in (back, front))
        return cls(angle, y, width, (ahead - behind) / 2, (ahead + behind) / 2)

    def outline(self, points: Points) -> Points:
        """Turn shapes that reach around the body, such as clothes: their sides stay at the sides."""
        width, seen_width, shift, _ = self._at(points[:, 1])
        return np.stack([shift + points[:, 0] * seen_width / width, points[:, 1]], axis=1)

    def surface(self, points: Points) -> Points:
        """Turn points on the surface that the front view (or the back view) shows."""
        width, seen_width, shift, turn = self._at(points[:, 1])
        share = np.clip(points[:, 0] / width, -1.0, 1.0)
        over = np.abs(points[:, 0] - share * width)
        return self._seen(np.arcsin(share) + turn, over, seen_width, shift, points)

    def side(self, points: Points) -> Points:
        """Turn points of the profile, on the side that is next to the camera."""
        _, seen_width, shift, turn = self._at(points[:, 1])
        depth, forward = (np.interp(points[:, 1], self.y, values) for values in (self.depth, self.forward))
        share = np.clip((points[:, 0] - forward) / depth, -1.0, 1.0)
        over = np.abs(points[:, 0] - forward - share * depth)
        around = turn - np.arccos(share) if self.angle < np.pi / 2 else turn + np.arccos(-share)
        return self._seen(around, over, seen_width, shift, points)

    def _at(self, y: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], ...]:
        """Give the half width before and after the turn, the x of the centre and the turn on the ellipse."""
        width, depth, forward = (np.interp(y, self.y, v) for v in (self.width, self.depth, self.forward))
        ahead, sideways = float(np.cos(self.angle)), float(np.sin(self.angle))
        seen_width = np.hypot(width * ahead, depth * sideways)
        turn = np.arctan2(depth * sideways, width * abs(ahead)) * (1 if ahead > 0 else -1)
        return width, seen_width, forward * sideways, turn

    @staticmethod
    def _seen(
        around: npt.NDArray[np.float64],
        over: npt.NDArray[np.float64],
        seen_width: npt.NDArray[np.float64],
        shift: npt.NDArray[np.float64],
        points: Points,
    ) -> Points:
        """Project points of the ellipse; those on its far side move to its edge."""
        x = shift + (seen_width + over) * np.sin(np.clip(around, -np.pi / 2, np.pi / 2))
        return np.stack([x, points[:, 1]], axis=1)


def _by_height(points: Sequence[Point]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Give y and x of points, sorted by y."""
    ordered = np.array(sorted(points, key=lambda point: point[1]))
    return ordered[:, 1], ordered[:, 0]


def _draw_torso(
    canvas: Canvas, angle: float, skeleton: Skeleton, build: Build, looks: Looks, *, is_back: bool
) -> None:
    # The joints of the arms are where the photo shows them, but the torso is that of the front view.
    shoulders = tuple(replace(arm, shoulder=(build.shoulder, arm.shoulder[1])) for arm in skeleton.arms)
    upright = replace(skeleton, arms=(shoulders[0], shoulders[1]))
    thigh = build.hip * 0.56 + 0.054 * build.muscle  # the trunks reach around the thighs
    half = [*facing.torso_half(upright, build)[:-2], (thigh, 0.045), (thigh, 0.150)]
    rim = profile.torso_outline(replace(upright, lat=_CHEST), build)
    solid = _Solid.of(angle, half, rim[:8], rim[9:])
    with canvas.moved(solid.surface, outlines=solid.outline):
        facing.draw_torso(canvas, upright, build, looks, is_back=is_back)


def _draw_head(
    canvas: Canvas, angle: float, centre: Point, build: Build, looks: Looks, *, is_back: bool
) -> None:
    size = build.head
    skull = spline(facing.SKULL) * size
    rim = spline(profile.SKULL) * size
    # Hair reaches above and below the skull; its width there is that of the skull a little further in.
    half, front, back = (
        [(float(x), float(y)) for x, y in side]
        for side in (
            skull[skull[:, 0] > 0.026 * size],
            rim[rim[:, 0] > 0.010 * size],
            rim[rim[:, 0] < -0.010 * size],
        )
    )
    solid = _Solid.of(angle, half, back, front)

    def place(points: Points) -> Points:
        placed: Points = points + np.array(centre)
        return placed

    with canvas.moved(place):
        if looks.hair_style == "long" and not is_back:
            canvas.part(
                ellipse((-0.022 * float(np.sin(angle)), 0.03), (0.056, 0.078)), darker(looks.hair, 0.8)
            )
        with canvas.moved(solid.outline):
            canvas.part(skull, looks.skin)
        with canvas.moved(solid.side):
            profile.draw_side_of_head(canvas, (0.0, 0.0), size, looks)
        with canvas.moved(solid.surface):
            if is_back:
                facing.draw_hair_behind(canvas, (0.0, 0.0), size, looks)
            else:
                has_bun = looks.hair_style == "bun"  # it is drawn with the side
                facing.draw_face(
                    canvas, (0.0, 0.0), size, replace(looks, hair_style="short") if has_bun else looks
                )
