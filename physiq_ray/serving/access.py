"""Who may ask, how often, and whether there is room: decisions of values, without HTTP.

Each replica decides by itself, of what it sees.
"""

import hmac
import math
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path

from physiq_ray.errors import ServingError

ENVIRONMENT_WORD = "environment"
TOKENS_VARIABLE = "PHYSIQ_TOKENS"
MIN_TOKEN_LENGTH = 16
REREAD_S = 5.0  # a token added to the file, or taken out of it, counts after so long
MAX_CLIENTS = 10_000  # whose rates are remembered


class Pace:
    """How long a photo takes when photos come without a break, and so how long a new one will wait.

    A moving average over photos. Photos leave by the batch, all the batch's time on the first of them: the
    average swings by a third around the time per photo, which is close enough to decide on.
    """

    WEIGHT = 0.04  # of the latest photo

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Start with nothing known: no wait is expected."""
        self._clock = clock
        self._num_inside = 0
        self._photo_s = 0.0
        self._last_s = 0.0

    def enter(self) -> None:
        """Count a photo in, once its bytes are here."""
        if not self._num_inside:
            self._last_s = self._clock()
        self._num_inside += 1

    def leave(self) -> None:
        """Count a photo out, answered or not."""
        now_s = self._clock()
        self._num_inside -= 1
        self._photo_s += (now_s - self._last_s - self._photo_s) * self.WEIGHT
        self._last_s = now_s

    @property
    def num_inside(self) -> int:
        """Photos that have not left."""
        return self._num_inside

    @property
    def expected_wait_s(self) -> float:
        """Seconds until the photos that are inside now will have left."""
        return self._num_inside * self._photo_s


class RateLimit:
    """So many requests a minute from each client, a minute's worth of them at once."""

    def __init__(self, per_minute: int | None, clock: Callable[[], float] = time.monotonic) -> None:
        """per_minute: None lets all through."""
        self._per_minute = per_minute
        self._clock = clock
        self._clients: OrderedDict[str, tuple[float, float]] = OrderedDict()  # requests left, since when

    def wait_s(self, client: str) -> int:
        """Count a request; give 0 where it may pass, else the whole seconds after which one may."""
        if self._per_minute is None:
            return 0
        now_s, per_s = self._clock(), self._per_minute / 60
        left, since_s = self._clients.pop(client, (float(self._per_minute), now_s))
        left = min(self._per_minute, left + (now_s - since_s) * per_s)
        is_allowed = left >= 1
        self._clients[client] = (left - is_allowed, now_s)
        if len(self._clients) > MAX_CLIENTS:
            self._clients.popitem(last=False)  # who has been quiet for longest
        return 0 if is_allowed else max(1, math.ceil((1 - left) / per_s))


class Tokens:
    """The bearer tokens that open the service; several at a time, so that they can be changed in turn."""

    def __init__(
        self,
        setting: str | None,
        *,
        environment: Mapping[str, str] = os.environ,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Read them; setting: a file with one a line, "environment", or None: no token is asked for.

        Raises ServingError: none found, too short, or the file cannot be read. A service that was meant to be
        closed must not start open.
        """
        self._path = None
        self._clock = clock
        self._tokens: tuple[bytes, ...] = ()
        self.is_open = setting is None
        if setting == ENVIRONMENT_WORD:
            text = environment.get(TOKENS_VARIABLE, "").replace(",", "\n")
            self._tokens = _parse(text, f"tokens=environment: {TOKENS_VARIABLE}")
        elif setting is not None:
            self._path = Path(setting)
            self._tokens = self._read()
        self._read_s = clock()

    def name_of(self, authorization: str | None) -> str | None:
        """Give a name for the token of an Authorization header that is not the token; None: refused."""
        self._refresh()
        scheme, _, given = (authorization or "").partition(" ")
        candidate = given.strip().encode("latin-1", "replace")  # as ASGI has decoded it
        found = None
        for number, token in enumerate(self._tokens):  # all of them: the time tells nothing
            if hmac.compare_digest(candidate, token):
                found = f"token {number + 1}"
        return found if scheme.lower() == "bearer" else None

    def _refresh(self) -> None:
        now_s = self._clock()
        if self._path is None or now_s - self._read_s < REREAD_S:
            return
        self._read_s = now_s
        try:
            self._tokens = self._read()
        except ServingError:  # being written just now, or lost: those known stay
            return

    def _read(self) -> tuple[bytes, ...]:
        try:
            text = Path(str(self._path)).read_text(encoding="utf-8-sig")
        except (OSError, ValueError) as error:
            raise ServingError(f"tokens={self._path}: cannot be read: {error}") from error
        return _parse(text, f"tokens={self._path}")


def _parse(text: str, name: str) -> tuple[bytes, ...]:
    tokens = [line.strip() for line in text.splitlines()]
    tokens = [line for line in tokens if line and not line.startswith("#")]
    if not tokens:
        raise ServingError(f"{name}: no token found; give one a line, or leave tokens out")
    short = [number for number, token in enumerate(tokens, 1) if len(token) < MIN_TOKEN_LENGTH]
    if short:
        raise ServingError(
            f"{name}: token {short[0]} has fewer than {MIN_TOKEN_LENGTH} characters; make one with: "
            "python3 -c 'import secrets; print(secrets.token_urlsafe())'"
        )
    return tuple(token.encode() for token in tokens)
