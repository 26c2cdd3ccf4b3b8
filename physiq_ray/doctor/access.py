"""What all checks on S3 share: a client that gives up soon, and the faults that are not those of a bucket.

An endpoint that does not answer, a wrong clock and refused credentials let every request fail. Each is one
line of the report; the buckets and files are then reported as not checked.
"""

import contextlib
import os
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import Any, Final

from botocore.exceptions import ClientError

from physiq_ray.doctor.finding import Finding, State, from_error
from physiq_ray.doctor.schedule import Outcome
from physiq_ray.errors import DeniedError, PhysiqError, StorageError, UnreachableError
from physiq_ray.storage.refusal import BAD_CLOCK, BAD_KEYS, read_error
from physiq_ray.storage.s3 import start_hasty_session, translated
from physiq_ray.storage.versions import delete_version, list_versions

CHECK = "S3"
SKEW_LIMIT_S: Final = 15 * 60  # S3 refuses requests whose time is further off
SKEW_WARNING_S: Final = 5 * 60
SOON_S: Final = 3600  # credentials that end earlier may not last for a training

# What botocore calls the ways to credentials.
_KINDS: Final = {
    "env": "environment variables",
    "shared-credentials-file": "keys in the credentials file",
    "config-file": "keys in the config file",
    "assume-role": "assumed role",
    "assume-role-with-web-identity": "role by web identity",
    "sso": "SSO",
    "login": "aws login",
    "custom-process": "credential_process",
    "iam-role": "role of the instance",
    "container-role": "role of the container",
}


class Cause(StrEnum):
    """A fault that all requests share; the value is the subject of its line."""

    ENDPOINT = "endpoint"
    CLOCK = "clock"
    CREDENTIALS = "credentials"


class Trials:
    """The client of all checks, what its answers showed, and the objects that must be removed again."""

    def __init__(self) -> None:
        self.has_answered = False
        self.skews_s: list[float] = []  # of the server's clock against ours
        self.leftovers: dict[tuple[str, str], bool] = {}  # bucket and key → has it several versions?
        self._lock = threading.Lock()
        self._started: tuple[Any, Any] | None = None
        self._is_over = False

    @property
    def is_started(self) -> bool:
        """Whether the client was made; this asks for the credentials, which may take long."""
        return self._started is not None

    def start(self) -> tuple[Any, Any]:
        """Give the boto3 session and the client; the first call makes them. Raises as `s3_client`."""
        with self._lock:
            if self._started is None:
                with translated("credentials"):
                    session, client = start_hasty_session()
                client.meta.events.register("after-call.s3", self._note)
                self._started = session, client
            return self._started

    def _note(self, http_response: Any, **_: Any) -> None:
        self.has_answered = True
        with contextlib.suppress(KeyError, TypeError, ValueError):
            date = parsedate_to_datetime(http_response.headers["date"])
            self.skews_s.append((date - datetime.now(UTC)).total_seconds())

    def put(self, bucket: str, key: str, **condition: str) -> None:
        """Write a test object, which `remove` or `clean_up` removes. Raises botocore's errors."""
        if self._is_over:
            raise StorageError("the check was stopped; run it again")
        self.leftovers.setdefault((bucket, key), False)
        try:
            answer = self.start()[1].put_object(
                Bucket=bucket, Key=key, Body=b"physiq-ray doctor", **condition
            )
        except ClientError:  # it was not written
            if not condition:
                self.leftovers.pop((bucket, key), None)
            raise
        self.leftovers[bucket, key] |= "VersionId" in answer

    def remove(self, bucket: str, key: str) -> None:
        """Delete a test object, with its versions if the rights allow it. Raises botocore's errors."""
        client = self.start()[1]
        client.delete_object(Bucket=bucket, Key=key)
        if self.leftovers.pop((bucket, key), False):
            with contextlib.suppress(StorageError):
                for version in list_versions(bucket, key):
                    delete_version(bucket, key, version.id)

    def clean_up(self, timeout_s: float) -> list[str]:
        """Remove the test objects of checks that did not end; give the addresses of those that remain."""
        self._is_over = True
        end_s = time.monotonic() + timeout_s

        def remove(place: tuple[str, str]) -> None:
            with contextlib.suppress(StorageError), translated("delete"):
                self.remove(*place)

        threads = [
            threading.Thread(target=remove, args=(place,), daemon=True) for place in list(self.leftovers)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(max(0.0, end_s - time.monotonic()))
        return [f"s3://{bucket}/{key}" for bucket, key in list(self.leftovers)]


def check_credentials(trials: Trials, *, needed: bool) -> Iterator[Finding]:
    """Say which kind of credentials there is, and when they end; never what they are."""
    subject = Cause.CREDENTIALS.value
    at_worst = State.WRONG if needed else State.WARNING
    try:
        session, _ = trials.start()
    except UnreachableError as error:  # if it is needed, the line of the endpoint says so
        yield from () if needed else [from_error(CHECK, Cause.ENDPOINT.value, error, state=at_worst)]
        return
    except PhysiqError as error:
        yield from_error(CHECK, subject, error, state=at_worst)
        return
    try:
        with translated("credentials"):
            credentials = session.get_credentials()
            if credentials is not None:
                credentials.get_frozen_credentials()  # renews them if they are old
    except PhysiqError as error:
        yield from_error(CHECK, subject, error, state=at_worst)
        return
    if credentials is None:
        yield Finding(
            *(CHECK, subject, at_worst if needed else State.OK),
            "none" if needed else "none; no request needs them",
            "set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or use a role"
            if needed
            else "",
        )
        return
    kind = _KINDS.get(credentials.method, credentials.method)
    profile = f", profile {session.profile_name}" if session.profile_name != "default" else ""
    expiry, is_renewed = _find_expiry(credentials)
    yield judge_expiry(f"{kind}{profile}", expiry, is_renewed=is_renewed, at_worst=at_worst)


def judge_expiry(kind: str, expiry: datetime | None, *, is_renewed: bool, at_worst: State) -> Finding:
    """Say when credentials end; those that nobody renews must last for a training."""
    subject = Cause.CREDENTIALS.value
    if expiry is None:
        return Finding(CHECK, subject, State.OK, kind)
    left_s = (expiry - datetime.now(UTC)).total_seconds()
    remedy = "get new ones before a long run"
    if left_s <= 0:
        return Finding(CHECK, subject, at_worst, f"{kind}; expired {describe_s(-left_s)} ago", remedy)
    text = f"{kind}; for {describe_s(left_s)} more"
    if is_renewed:
        return Finding(CHECK, subject, State.OK, f"{text}, then renewed")
    if left_s < SOON_S:
        return Finding(CHECK, subject, State.WARNING, text, remedy)
    return Finding(CHECK, subject, State.OK, text)


def _find_expiry(credentials: Any) -> tuple[datetime | None, bool]:
    """Give the end of credentials if it is known, and whether botocore renews them."""
    expiry = getattr(credentials, "_expiry_time", None)  # botocore has no public name for it
    if isinstance(expiry, datetime):
        return expiry, True
    with contextlib.suppress(ValueError):
        if credentials.method == "env":
            expiry = datetime.fromisoformat(os.environ.get("AWS_CREDENTIAL_EXPIRATION", ""))
            return (expiry if expiry.tzinfo else expiry.replace(tzinfo=UTC)), False
    return None, False


def report_s3(
    places: Sequence[Outcome], credentials: Outcome, trials: Trials, deadline_s: float
) -> Iterator[Finding]:
    """Give the lines of the endpoint, the clock and the credentials, and those of all buckets and files.

    places: the outcomes of the checks of buckets, folders and files. A fault that they share is wrong once.
    """
    causes = [_find_cause(outcome, trials) for outcome in places]
    for cause in Cause:
        first = next((place for place, its in zip(places, causes, strict=True) if its == cause), None)
        yield from _report_cause(cause, first, credentials, trials, deadline_s)
    for outcome, its in zip(places, causes, strict=True):
        if its is None:
            yield from outcome.to_findings(deadline_s)
        else:
            yield Finding(
                *(outcome.check.name, outcome.check.subject, State.WARNING),
                f"not checked, because of the {its}",
                "correct that first",
            )


def _find_cause(outcome: Outcome, trials: Trials) -> Cause | None:
    """Find whether a check failed by a fault that all requests share."""
    error = outcome.error
    if outcome.check.bucket is None:
        return None
    if error is None:
        if outcome.is_done or trials.has_answered:
            return None
        return Cause.ENDPOINT if trials.is_started else Cause.CREDENTIALS
    code = read_error(error.__cause__)[0] if isinstance(error.__cause__, ClientError) else None
    if code == BAD_CLOCK:
        return Cause.CLOCK
    if code in BAD_KEYS or (code is None and isinstance(error, DeniedError)):
        return Cause.CREDENTIALS
    if code is None and isinstance(error, UnreachableError) and not trials.has_answered:
        return Cause.ENDPOINT
    return None


def _report_cause(
    cause: Cause, place: Outcome | None, credentials: Outcome, trials: Trials, deadline_s: float
) -> Iterator[Finding]:
    """Give the line of an endpoint, a clock or credentials; place: a check that failed by it."""
    if cause == Cause.CLOCK and trials.skews_s:
        found = judge_clock(max(trials.skews_s, key=abs))
        if place is None or found.state == State.WRONG:  # it says by how much, unlike S3's refusal
            yield found
            return
    if place is not None and (place.error is not None or cause != Cause.CREDENTIALS):
        (finding,) = list(replace(place, findings=[]).to_findings(deadline_s))
        text = f"{_url(trials)}{finding.finding}" if cause == Cause.ENDPOINT else finding.finding
        yield replace(finding, check=CHECK, subject=cause.value, finding=text)
    elif cause == Cause.CREDENTIALS:
        yield from credentials.to_findings(deadline_s)
    elif cause == Cause.ENDPOINT and trials.has_answered:
        yield Finding(CHECK, cause.value, State.OK, f"{_url(trials)}answers")


def judge_clock(skew_s: float) -> Finding:
    """Compare the clocks; skew_s: by how many seconds the server's is ahead of ours."""
    subject = Cause.CLOCK.value
    if abs(skew_s) < SKEW_WARNING_S:
        return Finding(CHECK, subject, State.OK, "agrees with the server's")
    state = State.WRONG if abs(skew_s) >= SKEW_LIMIT_S else State.WARNING
    where = "behind" if skew_s > 0 else "ahead of"
    return Finding(
        *(CHECK, subject, state, f"this machine is {describe_s(abs(skew_s))} {where} the server"),
        "set the clock right, for example by NTP; S3 refuses requests that are 15 minutes off",
    )


def describe_s(seconds: float) -> str:
    """Write a time in the largest unit of which there is at least one."""
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def _url(trials: Trials) -> str:
    return f"{trials.start()[1].meta.endpoint_url} " if trials.is_started else ""
