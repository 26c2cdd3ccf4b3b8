"""Who may send a request, how often, and which addresses it may name.

Each replica decides by itself, from what it sees.
"""

import hmac
import math
import os
import time
import unicodedata
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, Literal

from starlette.requests import Request

from physiq_ray.config import ServingSettings
from physiq_ray.errors import ServingError
from physiq_ray.serving.clients import FORWARDED_FOR, name_client, parse_networks, peer_header
from physiq_ray.serving.refusals import RequestError
from physiq_ray.storage import split_uri

Scope = Literal["predict", "feedback"]
PREDICT: Final = "predict"
FEEDBACK: Final = "feedback"
SCOPES: Final = (PREDICT, FEEDBACK)

ENVIRONMENT_WORD = "environment"
TOKENS_VARIABLE = "PHYSIQ_TOKENS"
MIN_TOKEN_LENGTH = 16
REREAD_S = 5.0  # after which a change of the token file takes effect
MAX_CLIENTS = 10_000  # whose requests are counted


class Access:
    """Checks the token and the rate of each request; needs its headers only."""

    def __init__(self, settings: ServingSettings) -> None:
        """Read the tokens.

        Raises ServingError: the tokens cannot be read, or there are none.
        """
        self._tokens = Tokens(settings.tokens)
        self._rates: Mapping[Scope, RateLimit] = {
            PREDICT: RateLimit(settings.requests_per_minute),
            FEEDBACK: RateLimit(settings.feedback_per_minute),
        }
        self._trusted = parse_networks(settings.trusted_proxies)
        self._peer_header = peer_header()

    def check(self, request: Request, scope: Scope) -> str:
        """Give the name of the client if it may send this request: that of its token, else its address.

        Raises RequestError: 401 the token is missing or wrong; 403 it is one for other requests; 429 too many
        requests.
        """
        client: str | None = f"address {self._address_of(request)}"
        if not self._tokens.is_open:
            client, scopes = self._tokens.find(request.headers.get("authorization"))
            if client is not None and scope not in scopes:
                raise RequestError(403, "forbidden", f"this token may not be used for {scope}")
        if client is None:
            raise RequestError(
                401, "unauthorised", "the bearer token is missing or wrong: Authorization: Bearer …"
            )
        rate = self._rates[scope]
        wait_s = rate.wait_s(client)
        if wait_s:
            raise RequestError(
                429,
                "too_many_requests",
                f"more than {rate.per_minute} requests a minute; try again in {wait_s} s",
                retry_after_s=wait_s,
            )
        return client

    def _address_of(self, request: Request) -> str:
        headers = request.headers
        return name_client(
            request.client.host if request.client else None,
            headers.getlist(FORWARDED_FOR),
            headers.getlist(self._peer_header) if self._peer_header else (),
            self._trusted,
        )


class RateLimit:
    """A number of requests per minute for each client; a client may send one minute's requests at once."""

    def __init__(self, per_minute: int | None, clock: Callable[[], float] = time.monotonic) -> None:
        """per_minute: None allows all requests."""
        self.per_minute = per_minute
        self._clock = clock
        self._clients: OrderedDict[str, tuple[float, float]] = OrderedDict()  # requests left, since when

    def wait_s(self, client: str) -> int:
        """Count a request; give 0 if it is allowed, else the whole seconds until the next one is."""
        if self.per_minute is None:
            return 0
        now_s, per_s = self._clock(), self.per_minute / 60
        left, since_s = self._clients.pop(client, (float(self.per_minute), now_s))
        left = min(self.per_minute, left + (now_s - since_s) * per_s)
        is_allowed = left >= 1
        self._clients[client] = (left - is_allowed, now_s)
        if len(self._clients) > MAX_CLIENTS:
            self._clients.popitem(last=False)  # the client whose last request is oldest
        return 0 if is_allowed else max(1, math.ceil((1 - left) / per_s))


class Tokens:
    """The bearer tokens that the service accepts: several, so that they can be replaced one by one.

    A token is for predictions, unless its line starts with its scopes: `feedback TOKEN` is for feedback only,
    `predict+feedback TOKEN` is for both.
    """

    def __init__(
        self,
        setting: str | None,
        *,
        environment: Mapping[str, str] = os.environ,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Read them; setting: a file with one token per line, "environment", or None: no token is required.

        Raises ServingError: there is no token, one is too short, or the file cannot be read. A service that
        should require a token must not start without one.
        """
        self._path = None
        self._clock = clock
        self._tokens: tuple[tuple[bytes, frozenset[Scope]], ...] = ()
        self.is_open = setting is None
        if setting == ENVIRONMENT_WORD:
            text = environment.get(TOKENS_VARIABLE, "").replace(",", "\n")
            self._tokens = _parse(text, f"tokens=environment: {TOKENS_VARIABLE}")
        elif setting is not None:
            self._path = Path(setting)
            self._tokens = self._read()
        self._read_s = clock()

    def find(self, authorization: str | None) -> tuple[str | None, frozenset[Scope]]:
        """Give a name, never the token itself, and the scopes for an Authorization header.

        The name is None if the header has no accepted token.
        """
        self._refresh()
        scheme, _, given = (authorization or "").partition(" ")
        candidate = given.strip().encode("latin-1", "replace")  # as ASGI decoded it
        found: tuple[str | None, frozenset[Scope]] = None, frozenset()
        for number, (token, scopes) in enumerate(self._tokens):  # all, so that the time reveals nothing
            if hmac.compare_digest(candidate, token):
                found = f"token {number + 1}", scopes
        return found if scheme.lower() == "bearer" else (None, frozenset())

    def _refresh(self) -> None:
        now_s = self._clock()
        if self._path is None or now_s - self._read_s < REREAD_S:
            return
        self._read_s = now_s
        try:
            self._tokens = self._read()
        except ServingError:  # it is being written, or is gone: keep the tokens read before
            return

    def _read(self) -> tuple[tuple[bytes, frozenset[Scope]], ...]:
        try:
            text = Path(str(self._path)).read_text(encoding="utf-8-sig")
        except (OSError, ValueError) as error:
            raise ServingError(f"tokens={self._path}: cannot be read: {error}") from error
        return _parse(text, f"tokens={self._path}")


def is_allowed(uri: str, allowed: Sequence[str]) -> bool:
    """Say whether uri names an object in one of the allowed buckets or prefixes.

    A key with "." or ".." as a part is never allowed: some S3 servers resolve it, and it leaves the prefix.
    """
    bucket, key = split_uri(uri)
    if not uri.startswith("s3://") or not key or "\\" in key:
        return False
    if any(unicodedata.category(character) in {"Cc", "Cf", "Cs"} for character in key):
        return False  # control characters, marks that reverse text, lone surrogates
    if any(part in {".", ".."} for part in key.split("/")):
        return False
    for source in allowed:
        allowed_bucket, prefix = split_uri(source)
        prefix = prefix.rstrip("/")
        if bucket == allowed_bucket and (not prefix or key.startswith(prefix + "/")):
            return True
    return False


def _parse(text: str, name: str) -> tuple[tuple[bytes, frozenset[Scope]], ...]:
    lines = [line.strip() for line in text.splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    if not lines:
        raise ServingError(f"{name}: no token found; write one token per line, or leave out tokens")
    tokens: list[tuple[bytes, frozenset[Scope]]] = []
    for number, line in enumerate(lines, 1):
        scopes, _, token = line.rpartition(" ")
        if len(token) < MIN_TOKEN_LENGTH:
            raise ServingError(
                f"{name}: token {number} has fewer than {MIN_TOKEN_LENGTH} characters; make one with: "
                "python3 -c 'import secrets; print(secrets.token_urlsafe())'"
            )
        named = frozenset(scopes.strip().split("+")) if scopes else {PREDICT}
        if named - set(SCOPES):
            raise ServingError(
                f"{name}: token {number} has a word before it that is not {', '.join(SCOPES)} or "
                f"{'+'.join(SCOPES)}; write the token alone, or after its scopes"
            )
        tokens.append((token.encode(), frozenset(scope for scope in SCOPES if scope in named)))
    return tuple(tokens)
