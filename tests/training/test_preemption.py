"""Notices of preemption, with Ray's answers made up: `test_resume` and `test_faults` get real ones."""

from concurrent.futures import Future

import pytest
import ray.train

from physiq_ray.training import preemption
from physiq_ray.training.preemption import Notices

FIRST = ray.train.PreemptionInfo(deadline_ms=120_000, preempted_node_to_ranks={"a": [0]})
SECOND = ray.train.PreemptionInfo(deadline_ms=180_000, preempted_node_to_ranks={"a": [0], "b": [1]})


class Thread:
    """The thread that asks: it answers only when the test says so."""

    def __init__(self):
        self.asked = []

    def ask(self, question):
        assert question is ray.train.get_preemption_info
        self.asked.append(Future())
        return self.asked[-1]


@pytest.fixture
def thread(monkeypatch):
    monkeypatch.setenv("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "1")
    return Thread()


def test_a_notice_is_new_once_and_so_is_the_next_one(thread):
    notices = Notices(thread.ask)
    found = []
    for answer in (None, FIRST, FIRST, SECOND, SECOND):
        found.append(notices.is_new())
        thread.asked[-1].set_result(answer)
    assert [*found, notices.is_new()] == [False, False, True, False, True, False]


def test_an_answer_that_takes_long_is_not_waited_for(thread):
    notices = Notices(thread.ask)
    assert [notices.is_new() for _ in range(4)] == [False] * 4
    assert len(thread.asked) == 4  # as often as the other ranks, whatever they have got by now
    thread.asked[0].set_result(FIRST)
    assert notices.is_new()


def test_all_ranks_hear_what_one_rank_got_first(thread, monkeypatch):
    ranks = [Notices(thread.ask), Notices(thread.ask)]
    monkeypatch.setattr(preemption, "gather", lambda own: [own, FIRST])
    assert [rank.is_new() for rank in ranks] == [True, True]
    assert [rank.is_new() for rank in ranks] == [False, False]


def test_an_error_of_the_question_ends_the_worker(thread):
    notices = Notices(thread.ask)
    notices.is_new()
    thread.asked[0].set_exception(RuntimeError("the actor is gone"))
    with pytest.raises(RuntimeError, match="the actor is gone"):
        notices.is_new()


def test_ray_is_not_asked_where_it_does_not_watch(thread, monkeypatch):
    monkeypatch.setenv("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    assert not Notices(thread.ask).is_new()
    assert thread.asked == []
