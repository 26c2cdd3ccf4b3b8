"""The S3 clients of a process, and the translation of their errors into ours.

boto3 finds credentials, lists, writes and deletes. obstore reads photos (`fetch.py`). Both are created on
first use in each process and are never sent to another one.
"""

import contextlib
import os
import threading
from collections.abc import Iterable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import boto3
from boto3.exceptions import S3UploadFailedError
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    HTTPClientError,
    IncompleteReadError,
    LoginError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
    SSOError,
    TokenRetrievalError,
)
from botocore.exceptions import ConnectionError as BotoConnectionError
from obstore.auth.boto3 import Boto3CredentialProvider
from obstore.store import S3Store

from physiq_ray.config import SourceSettings
from physiq_ray.errors import DeniedError, NotFoundError, StorageError, UnreachableError
from physiq_ray.storage.access import Access, is_local, register
from physiq_ray.storage.pages import take_page
from physiq_ray.storage.refusal import (
    BAD_CLOCK,
    BAD_KEYS,
    describe_right,
    find_object_fault,
    read_error,
    with_message,
)

if TYPE_CHECKING:
    from obstore.store import ClientConfig

READ_AND_WRITE: Final = (
    "s3:ListBucket on the bucket and s3:GetObject (for output s3:PutObject too) on its objects"
)
MAX_CONNECTIONS = 64  # the most threads that fetch at the same time
HASTY: Final[dict[str, Any]] = {
    "connect_timeout": 3,
    "read_timeout": 4,
    "retries": {"mode": "standard", "total_max_attempts": 2},
}

_CREDENTIALS_LIFETIME: Final = timedelta(minutes=5)  # botocore renews them ten minutes before they end
_TIMEOUT: Final = timedelta(minutes=2)  # for a whole object, of 100 MB at most


class _Clients:
    """The clients of one process; they are created once, even if several threads need them first."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.session: boto3.session.Session | None = None
        self.boto: Any = None
        self.stores: dict[str, S3Store] = {}
        self.access = Access()


_clients = _Clients()


def s3_client() -> Any:
    """Give this process's boto3 client; the first call creates it from the standard AWS configuration.

    Raises DeniedError: the profile of AWS_PROFILE does not exist. UnreachableError: AWS_ENDPOINT_URL is not
    an address.
    """
    with _clients.lock:
        if _clients.boto is None:
            _clients.session, _clients.boto = _start_session()
        return _clients.boto


def start_hasty_session() -> tuple[boto3.session.Session, Any]:
    """Make a session and a boto3 client that gives up after 10 s, to learn whether the buckets answer.

    Raises as `s3_client`.
    """
    return _start_session(**HASTY)


def forget_clients() -> None:
    """Create new clients on the next use; call this after a change of the AWS environment variables."""
    with _clients.lock:
        _clients.session = _clients.boto = None
        _clients.stores.clear()


def current_access() -> Access:
    """Give the access settings of this process, to be sent to the processes that read for it."""
    return _clients.access


def use_access(access: Access) -> None:
    """Apply these access settings to all requests from now on."""
    with _clients.lock:
        if access != _clients.access:
            _clients.access = access
            _clients.stores.clear()


def follow_settings(settings: SourceSettings, buckets: Iterable[str]) -> None:
    """Apply the settings' access to requests to these buckets."""
    use_access(
        current_access().with_buckets(
            buckets,
            anonymous=settings.anonymous == "yes",
            requester_pays=settings.requester_pays == "yes",
        )
    )


@contextlib.contextmanager
def translated(attempted: str, *, right: str = READ_AND_WRITE) -> Iterator[None]:
    """Turn boto3's errors into ours; the sentence starts with what was attempted.

    right: what the role or key needs for it.
    """
    try:
        yield
    except ClientError as error:
        raise _translate_client(error, attempted, right) from error
    except S3UploadFailedError as error:
        cause = error.__context__  # the error with the reason
        raise (
            _translate_client(cause, attempted, right)
            if isinstance(cause, ClientError)
            else StorageError(f"{attempted}: {error}")
        ) from error
    except (NoCredentialsError, PartialCredentialsError) as error:
        raise DeniedError(
            f"{attempted}: {error}; set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or "
            "run where a role gives access"
        ) from error
    except (SSOError, LoginError, TokenRetrievalError) as error:
        raise DeniedError(f"{attempted}: {error}; {_log_in(error)} and try again") from error
    except (HTTPClientError, BotoConnectionError, IncompleteReadError, OSError) as error:
        raise UnreachableError(f"{attempted}: {error}; check AWS_ENDPOINT_URL and the network") from error
    except BotoCoreError as error:
        raise StorageError(f"{attempted}: {error}") from error
    except RuntimeError as error:
        if _STALE_CREDENTIALS not in str(error):
            raise
        raise DeniedError(
            f"{attempted}: the credentials expired and could not be refreshed; sign in again, e.g. "
            "`aws sso login`"
        ) from error


def _log_in(error: BotoCoreError) -> str:
    command = "aws login" if isinstance(error, LoginError) else "aws sso login"
    session = _clients.session
    return f"run {command} --profile {session.profile_name if session is not None else 'default'}"


def _start_session(**limits: Any) -> tuple[boto3.session.Session, Any]:
    """Make a session and its client; limits: options of botocore's Config, instead of the usual ones."""
    try:
        # Not boto3's default session, which threads must not share.
        session = boto3.session.Session()
        return session, _make_client(session, limits)
    except ProfileNotFound as error:
        raise DeniedError(f"S3: {error}; set AWS_PROFILE to one that exists or unset it") from error
    except ValueError as error:
        raise UnreachableError(f"S3: {error}; set AWS_ENDPOINT_URL to an http(s):// address") from error


def _make_client(session: boto3.session.Session, limits: dict[str, Any]) -> Any:
    usual: dict[str, Any] = {
        "connect_timeout": 10,
        "read_timeout": 60,
        "retries": {"mode": "standard", "max_attempts": 4},
    }
    config = Config(
        max_pool_connections=MAX_CONNECTIONS, user_agent_extra="physiq-ray", **{**usual, **limits}
    )
    client = session.client("s3", config=config)
    if is_local(client.meta.endpoint_url):  # known only now: the profile may set the address
        client = session.client("s3", config=config.merge(Config(proxies={})))
    register(client.meta.events, current_access)
    # With the wildcard it runs before botocore's own handlers, one of which parses every body again, slowly.
    client.meta.events.register_first("before-parse.*.ListObjectsV2", take_page)
    return client


def open_store(bucket: str) -> S3Store:
    """Give the obstore client of one bucket, with the configuration of the boto3 client.

    Raises ValueError: no credentials.
    """
    with _clients.lock:
        client, session = s3_client(), _clients.session
        if bucket not in _clients.stores and session is not None:
            _clients.stores[bucket] = _make_store(bucket, client, session)
        return _clients.stores[bucket]


def _make_store(bucket: str, client: Any, session: boto3.session.Session) -> S3Store:
    endpoint = client.meta.endpoint_url
    is_aws, is_anonymous = ".amazonaws.com" in endpoint, bucket in _clients.access.anonymous
    options: ClientConfig = {"timeout": _TIMEOUT, "connect_timeout": timedelta(seconds=10)}
    if endpoint.startswith("http://"):
        options["allow_http"] = True
    if is_local(endpoint):
        # obstore has no option to ignore the environment's proxies. A given proxy replaces them; this one is
        # never used, because the only address is excluded from it.
        options["proxy_url"], options["proxy_excludes"] = (
            "http://127.0.0.1:9",
            urlsplit(endpoint).hostname or "",
        )
    if bundle := os.environ.get("AWS_CA_BUNDLE"):
        options["root_certificate"] = Path(bundle).read_bytes()
    return S3Store(
        bucket,
        region=_bucket_region(client, bucket) if is_aws else client.meta.region_name,
        endpoint=None if is_aws else endpoint,
        credential_provider=(
            None if is_anonymous else Boto3CredentialProvider(session, ttl=_CREDENTIALS_LIFETIME)
        ),
        skip_signature=is_anonymous,
        request_payer=bucket in _clients.access.requester_pays,
        client_options=options,
        retry_config={"max_retries": 0},  # boto3 tries next, then the caller retries
    )


def _bucket_region(client: Any, bucket: str) -> str:
    """Ask for the region of a bucket: obstore, unlike boto3, does not follow redirects to another region."""
    try:
        answer = client.head_bucket(Bucket=bucket)["ResponseMetadata"]
    except ClientError as error:  # a refusal names the region too
        answer = error.response["ResponseMetadata"]
    region: str = answer["HTTPHeaders"].get("x-amz-bucket-region", client.meta.region_name)
    return region


# botocore has no class for this error (credentials.py, RefreshableCredentials).
_STALE_CREDENTIALS = "refreshed credentials are still expired"
_MISSING = {"NoSuchBucket", "NoSuchKey", "404", "NotFound"}


def _translate_client(error: ClientError, attempted: str, right: str = READ_AND_WRITE) -> StorageError:
    """Turn S3's answer into one of our errors; right: what the role or key needs if S3 refuses the request.

    A fault of this one object is a plain StorageError, because it says nothing about other objects.
    """
    code, message, status = read_error(error)
    kind: type[StorageError] = StorageError
    if code in _MISSING:
        kind, reason = NotFoundError, f"{code}; check the name, the region and AWS_ENDPOINT_URL"
    elif code in BAD_KEYS:
        kind, reason = DeniedError, f"the credentials were refused ({code}); check AWS_PROFILE and keys"
    elif code == BAD_CLOCK:
        kind, reason = DeniedError, f"{code}; this machine's clock is off by minutes: set it right"
    elif fault := find_object_fault(code, message):
        reason = f"{code}; {fault}"
    elif status == 403:
        kind, reason = DeniedError, f"{code}; the role or key needs {describe_right(message, right)}"
    elif (status >= 500 and status != 501) or status == 429 or code in {"SlowDown", "RequestTimeout"}:
        kind, reason = UnreachableError, f"{code or status} after several tries; try again later"
    else:
        return StorageError(f"{attempted}: {error}")  # this includes S3's message
    return kind(f"{attempted}: {with_message(reason, message)}")
