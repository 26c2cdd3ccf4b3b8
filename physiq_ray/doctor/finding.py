"""One line of the report: what was checked, what was found, and what to do about it."""

import re
from dataclasses import dataclass
from enum import StrEnum

from physiq_ray.errors import PhysiqError


class State(StrEnum):
    """What a finding means for a run. WRONG: something that was requested would fail."""

    OK = "ok"
    WARNING = "warning"
    WRONG = "wrong"


@dataclass(frozen=True)
class Finding:
    """What a check found; remedy: what to do, empty if the state is OK."""

    check: str
    subject: str
    state: State
    finding: str
    remedy: str = ""


def from_error(
    check: str, subject: str, error: PhysiqError, *, state: State = State.WRONG, remedy: str = ""
) -> Finding:
    """Turn an error into a finding; its sentence says after "; " what to do, or else remedy does."""
    finding, _, advice = str(error).partition("; ")
    return Finding(check, subject, state, finding, advice or remedy)


def hide_passwords(text: str) -> str:
    """Replace user and password in the URLs of a text."""
    return re.sub(r"(?<=://)[^/\s]*@", "***@", text)
