import math

import pytest
from replica import Clock

from physiq_ray.config import ServingSettings
from physiq_ray.serving.pace import Pace, Room

# Pace


def run_batches(pace: Pace, clock: Clock, *, batch_size: int, photo_s: float, num_photos: int) -> None:
    """Keep two batches inside; every batch_size × photo_s, all photos of one batch leave and others enter."""
    for _ in range(2 * batch_size):
        pace.enter()
    for _ in range(num_photos // batch_size):
        clock.now_s += batch_size * photo_s
        for _ in range(batch_size):
            pace.leave()
        for _ in range(batch_size):
            pace.enter()


def test_without_a_measurement_no_wait_is_expected(clock: Clock) -> None:
    pace = Pace(clock)
    pace.enter()

    assert pace.expected_wait_s == 0


def test_the_expected_wait_approaches_the_true_time_of_the_photos_inside(clock: Clock) -> None:
    pace = Pace(clock)

    run_batches(pace, clock, batch_size=1, photo_s=0.02, num_photos=300)

    assert math.isclose(pace.expected_wait_s, 2 * 0.02, rel_tol=0.01)


@pytest.mark.parametrize("batch_size", [4, 16])
def test_the_expected_wait_is_within_two_fifths_if_photos_leave_in_batches(
    clock: Clock, batch_size: int
) -> None:
    pace = Pace(clock)
    run_batches(pace, clock, batch_size=batch_size, photo_s=0.02, num_photos=1600)
    seen = []

    for _ in range(batch_size):  # over one whole batch, because the average varies within it
        seen.append(pace.expected_wait_s / pace.num_inside)
        clock.now_s += batch_size * 0.02 if not len(seen) - 1 else 0
        pace.leave()

    assert min(seen) > 0.6 * 0.02
    assert max(seen) < 1.4 * 0.02
    assert math.isclose(sum(seen) / batch_size, 0.02, rel_tol=0.05)


def test_idle_time_is_not_counted_as_the_time_of_a_photo(clock: Clock) -> None:
    pace = Pace(clock)
    run_batches(pace, clock, batch_size=1, photo_s=0.02, num_photos=300)
    for _ in range(2):
        clock.now_s += 0.02
        pace.leave()

    clock.now_s += 3600
    pace.enter()
    clock.now_s += 0.02
    pace.leave()
    pace.enter()

    assert math.isclose(pace.expected_wait_s, 0.02, rel_tol=0.01)


def test_an_empty_replica_expects_no_wait_however_slow_it_was(clock: Clock) -> None:
    pace = Pace(clock)
    pace.enter()
    clock.now_s += 3600
    pace.leave()

    assert pace.expected_wait_s == 0


def test_the_expected_wait_follows_a_faster_replica_within_150_photos(clock: Clock) -> None:
    pace = Pace(clock)
    run_batches(pace, clock, batch_size=1, photo_s=1.0, num_photos=300)
    slow_s = pace.expected_wait_s
    for _ in range(2):
        pace.leave()

    run_batches(pace, clock, batch_size=1, photo_s=0.02, num_photos=150)

    assert math.isclose(slow_s, 2.0, rel_tol=0.01)
    assert pace.expected_wait_s < 0.05


# Room


def room_of(pace: Pace) -> Room:
    return Room(pace, ServingSettings(max_requests=3, max_batch_size=2, max_wait_s=1.0))


def test_requests_above_max_requests_are_refused(clock: Clock) -> None:
    room = room_of(Pace(clock))

    with room.occupied(), room.occupied():
        before = room.refusal()
        with room.occupied():
            refusal = room.refusal()
        after = room.refusal()

    assert before is after is None
    assert refusal is not None
    assert (refusal.status, refusal.code, refusal.retry_after_s) == (503, "busy", 1)


def test_a_failed_request_makes_room_for_others(clock: Clock) -> None:
    room = room_of(Pace(clock))

    for _ in range(5):
        with pytest.raises(ValueError, match="broken"), room.occupied():
            raise ValueError("broken")

    assert room.refusal() is None


@pytest.mark.parametrize(("photo_s", "retry_after_s"), [(0.4, None), (0.7, 2), (2.4, 5)])
def test_a_request_that_would_wait_longer_than_max_wait_is_refused_with_the_expected_wait(
    clock: Clock, photo_s: float, retry_after_s: int | None
) -> None:
    pace = Pace(clock)
    run_batches(pace, clock, batch_size=1, photo_s=photo_s, num_photos=300)  # two photos stay inside

    refusal = room_of(pace).refusal()

    assert (refusal.retry_after_s if refusal else None) == retry_after_s


def test_photos_of_the_next_batch_are_accepted_even_if_a_pause_raised_the_average(clock: Clock) -> None:
    pace = Pace(clock)
    pace.enter()
    clock.now_s += 3600
    pace.leave()
    pace.enter()

    assert pace.expected_wait_s > 100
    assert room_of(pace).refusal() is None
    pace.enter()
    assert room_of(pace).refusal() is not None
