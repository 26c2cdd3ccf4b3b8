"""People without a pose: how far their arms are from those of the eight poses."""

import numpy as np
import pytest

from physiq_ray.sample.figures import Athlete
from physiq_ray.sample.skeletons import POSE_IDS, PROFILE_POSE_IDS, build_skeleton
from physiq_ray.sample.stances import build_relaxed, build_turned

NUM = 150
RELAXED = [("hanging", "hanging"), ("folded", "folded"), ("phone", "hanging"), ("around", "hanging")]
TURNED = [0.55, 0.95, 2.10, 2.60]


def arm_angles(skeleton, *, is_outward):
    """Give the directions of upper arm and forearm in the photo: (arm, part), degrees from straight down."""
    signs = (1, -1) if is_outward else (1, 1)
    return np.degrees(
        [
            [
                np.arctan2(sign * (end[0] - start[0]), end[1] - start[1])
                for start, end in ((arm.shoulder, arm.elbow), (arm.elbow, arm.wrist))
            ]
            for sign, arm in zip(signs, skeleton.arms, strict=True)
        ]
    )


def largest_difference(a, b):
    """Give the largest difference of two sets of angles, whichever arm is named first, mirrored or not."""
    variants = [a, a[::-1], -a, -a[::-1]]
    return min(np.abs((variant - b + 180) % 360 - 180).max() for variant in variants)


def build_of(seed):
    return Athlete.random(np.random.default_rng([40, seed])).build


@pytest.fixture(scope="module")
def poses():
    """Give for each pose the mean angles, and the largest difference of a photo of the pose from them."""
    found = {}
    for pose_id in POSE_IDS:
        is_outward = pose_id not in PROFILE_POSE_IDS
        drawn = [
            arm_angles(
                build_skeleton(pose_id, build_of(seed), np.random.default_rng(seed)), is_outward=is_outward
            )
            for seed in range(NUM)
        ]
        turns = np.exp(1j * np.radians(drawn))
        centre = np.degrees(np.angle(turns.mean(axis=0)))
        found[pose_id] = (centre, max(largest_difference(angles, centre) for angles in drawn))
    return found


@pytest.mark.parametrize("arms", RELAXED, ids=["hanging", "folded", "phone", "around"])
def test_no_relaxed_person_holds_its_arms_as_in_a_pose(poses, arms):
    for seed in range(NUM):
        skeleton = build_relaxed(arms, build_of(seed), np.random.default_rng(seed))
        angles = arm_angles(skeleton, is_outward=True)
        for pose_id, (centre, jitter) in poses.items():
            assert largest_difference(angles, centre) > 1.5 * jitter, pose_id


@pytest.mark.parametrize("angle", TURNED)
def test_no_half_turned_person_holds_its_arms_as_in_a_pose(poses, angle):
    for seed in range(NUM):
        skeleton = build_turned(angle, build_of(seed), np.random.default_rng(seed))
        angles = arm_angles(skeleton, is_outward=False)
        for pose_id, (centre, jitter) in poses.items():
            assert largest_difference(angles, centre) > 1.5 * jitter, pose_id


def test_the_shoulders_of_a_half_turned_person_are_as_close_as_its_angle_says():
    build = build_of(1)
    drawn = [build_turned(np.radians(60), build, np.random.default_rng(seed)).arms for seed in range(NUM)]
    apart = np.median([far.shoulder[0] - near.shoulder[0] for far, near in drawn])

    assert apart == pytest.approx(build.shoulder, rel=0.1)  # 2 * shoulder * cos(60°)


def test_a_person_seen_from_behind_has_its_far_arm_on_the_other_side():
    front, back = (build_turned(angle, build_of(1), np.random.default_rng(1)) for angle in (0.6, 2.5))

    assert front.arms[0].shoulder[0] > 0 > front.arms[1].shoulder[0]
    assert back.arms[0].shoulder[0] < 0 < back.arms[1].shoulder[0]


def test_the_same_seed_gives_the_same_joints_and_another_seed_does_not():
    first, again, other = (
        build_relaxed(RELAXED[0], build_of(1), np.random.default_rng(seed)) for seed in (3, 3, 4)
    )

    assert first == again
    assert first != other
