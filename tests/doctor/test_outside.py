"""Another program is asked, and stopped when it takes too long; what it printed before is kept."""

import sys
import time

import pytest

from physiq_ray.doctor.outside import ask


@pytest.mark.slow
def test_a_program_that_hangs_is_stopped_and_its_first_lines_are_kept() -> None:
    start_s = time.monotonic()
    code = "import time; print('first', flush=True); time.sleep(60)"
    assert ask([sys.executable, "-c", code], 2.0) == "first\n"
    assert time.monotonic() - start_s < 10


def test_a_program_that_does_not_exist_says_nothing() -> None:
    assert ask(["no-such-program-of-a-driver"], 2.0) == ""
