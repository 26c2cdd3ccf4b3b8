"""Run checks at the same time, each in a thread, until a common deadline.

A check that does not end is left behind: its thread is a daemon, so the process still exits.
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from physiq_ray.doctor.finding import Finding, State, from_error
from physiq_ray.errors import PhysiqError


@dataclass(frozen=True)
class Check:
    """A check. call: gives findings, or raises PhysiqError. late: the state if it does not end.

    bucket: the one to which it sends requests, so an error may be one of endpoint, clock or credentials.
    """

    name: str
    subject: str
    call: Callable[[], Iterable[Finding]]
    late: State = State.WRONG
    bucket: str | None = None


@dataclass
class Outcome:
    """What a check gave until now, and the error that ended it."""

    check: Check
    findings: list[Finding] = field(default_factory=list)
    error: PhysiqError | None = None
    is_done: bool = False

    def to_findings(self, deadline_s: float) -> Iterator[Finding]:
        """Give the findings; the error, or that the check did not end, is the last one."""
        check = self.check
        yield from self.findings
        if self.error is not None:
            remedy = f"correct it, or give another {check.name}"
            yield from_error(check.name, check.subject, self.error, remedy=remedy)
        elif not self.is_done:
            yield Finding(
                *(check.name, check.subject, check.late, f"did not answer within {deadline_s:.0f} s"),
                "check the network, and try again when the machine is less busy",
            )


def run_checks(checks: Sequence[Check], deadline_s: float) -> list[Outcome]:
    """Run all checks until they end or deadline_s is over; give their outcomes in the order of the checks."""
    outcomes = [Outcome(check) for check in checks]
    threads = [threading.Thread(target=_run, args=(outcome,), daemon=True) for outcome in outcomes]
    end_s = time.monotonic() + deadline_s
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, end_s - time.monotonic()))
    return [replace(outcome, findings=list(outcome.findings)) for outcome in outcomes]


def _run(outcome: Outcome) -> None:
    try:
        outcome.findings.extend(outcome.check.call())  # extend keeps what came before an error
    except PhysiqError as error:
        outcome.error = error
    except Exception as error:  # a fault of one check must not hide what the others find
        reason = " ".join(str(error).split())
        outcome.error = PhysiqError(
            f"the check failed: {type(error).__name__}: {reason}; report this as a fault of physiq-ray"
        )
    outcome.is_done = True
