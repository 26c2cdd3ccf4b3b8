"""The S3 clients of a process, and their errors in our words.

boto3 finds credentials, lists, writes and deletes. Photos come by obstore, which spends a fifth to a half
of boto3's processor time on an object; what it cannot do, boto3 does in its place, so that odd keys,
redirects and every error have one home. Clients are made on first use in each process and never travel.
"""

import contextlib
import os
import threading
import unicodedata
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
from obstore.exceptions import BaseError as ObstoreError
from obstore.store import S3Store

from physiq_ray.config import SourceSettings
from physiq_ray.errors import DeniedError, NotFoundError, StorageError, TooLargeError, UnreachableError
from physiq_ray.storage.access import Access, is_local, register
from physiq_ray.storage.address import is_bucket_name
from physiq_ray.storage.etag import check_object, if_match, refused
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
MAX_CONNECTIONS = 64  # as many as threads may fetch at once

_CREDENTIALS_LIFETIME: Final = timedelta(minutes=5)  # botocore renews them ten minutes before they end
_TIMEOUT: Final = timedelta(minutes=2)  # for a whole object, of 100 MB at most


class _Clients:
    """The clients of one process; threads that fetch their first photos together make them once."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.session: boto3.session.Session | None = None
        self.boto: Any = None
        self.stores: dict[str, S3Store] = {}
        self.access = Access()


_clients = _Clients()


def s3_client() -> Any:
    """Give this process's boto3 client, made on first use from the standard AWS chain.

    Raises DeniedError: AWS_PROFILE names no profile. UnreachableError: AWS_ENDPOINT_URL is no address.
    """
    with _clients.lock:
        if _clients.boto is None:
            try:
                session = (
                    boto3.session.Session()
                )  # boto3's default session must not be shared between threads
                _clients.boto = _make_client(session)
            except ProfileNotFound as error:
                raise DeniedError(f"S3: {error}; set AWS_PROFILE to one that exists or unset it") from error
            except ValueError as error:
                raise UnreachableError(
                    f"S3: {error}; set AWS_ENDPOINT_URL to an http(s):// address"
                ) from error
            _clients.session = session
        return _clients.boto


def forget_clients() -> None:
    """Make clients anew on the next use: for when the environment's AWS variables have changed."""
    with _clients.lock:
        _clients.session = _clients.boto = None
        _clients.stores.clear()


def current_access() -> Access:
    """Give how this process asks buckets: what must travel to the processes that read for it."""
    return _clients.access


def use_access(access: Access) -> None:
    """Ask buckets in this way from here on."""
    with _clients.lock:
        if access != _clients.access:
            _clients.access = access
            _clients.stores.clear()


def follow_settings(settings: SourceSettings, buckets: Iterable[str]) -> None:
    """Ask these buckets as the settings say."""
    use_access(
        current_access().with_buckets(
            buckets,
            anonymous=settings.anonymous == "yes",
            requester_pays=settings.requester_pays == "yes",
        )
    )


def read_object(bucket: str, key: str, max_bytes: int | None = None, *, etag: str = "") -> bytes:
    """Read one object whole, in one try of each client; call within `translated`.

    etag: of the version wanted, as listed; "" takes any.
    Raises TooLargeError: more than max_bytes. ChangedError: another version.
    """
    client, uri, condition = s3_client(), f"s3://{bucket}/{key}", if_match(etag)
    if is_bucket_name(bucket) and is_plain(key):
        # Whatever goes wrong here is asked of boto3 again: it knows redirects, and says what the fault is.
        with contextlib.suppress(ObstoreError, OSError, ValueError):
            result = open_store(bucket).get(key, options={"if_match": condition} if condition else None)
            check_object(uri, etag, result.meta["e_tag"])
            check_size(result.meta["size"], max_bytes)
            data = result.bytes().to_bytes()
            if len(data) == result.meta["size"]:
                return data
    # The body is read here: botocore retries a request, never a body that breaks off; it does compare
    # its length with the announced one.
    try:
        answer = client.get_object(Bucket=bucket, Key=key, **({"IfMatch": condition} if condition else {}))
    except ClientError as error:
        if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") != 412:
            raise
        raise refused(uri, etag) from error
    check_object(uri, etag, answer.get("ETag"))
    check_size(answer["ContentLength"], max_bytes)
    body: bytes = answer["Body"].read()
    return body


def check_size(num_bytes: int, max_bytes: int | None) -> None:
    """Refuse what is larger than may be read.

    Raises TooLargeError.
    """
    if max_bytes is not None and num_bytes > max_bytes:
        raise TooLargeError(f"{num_bytes} bytes; at most {max_bytes} are read")


@contextlib.contextmanager
def translated(attempted: str, *, right: str = READ_AND_WRITE) -> Iterator[None]:
    """Turn boto3's errors into ours, with what was attempted in front; right: what a refusal asks for."""
    try:
        yield
    except ClientError as error:
        raise _translate_client(error, attempted, right) from error
    except S3UploadFailedError as error:
        cause = error.__context__  # the error that says why
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
            f"{attempted}: the credentials have expired and the source of new ones gives none; renew the "
            "session (aws sso login, for one) and try again"
        ) from error


def _log_in(error: BotoCoreError) -> str:
    command = "aws login" if isinstance(error, LoginError) else "aws sso login"
    session = _clients.session
    return f"run {command} --profile {session.profile_name if session is not None else 'default'}"


def is_plain(key: str) -> bool:
    """Tell whether obstore's path type leaves a key as it is: it refuses or rewrites the others."""
    return not any(part in {"", ".", ".."} for part in key.split("/")) and not any(
        unicodedata.category(character) == "Cc" for character in key
    )


def _make_client(session: boto3.session.Session) -> Any:
    config = Config(
        max_pool_connections=MAX_CONNECTIONS,
        connect_timeout=10,
        read_timeout=60,
        retries={"mode": "standard", "max_attempts": 4},
        user_agent_extra="physiq-ray",
    )
    client = session.client("s3", config=config)
    if is_local(client.meta.endpoint_url):  # known only now: it may stand in the profile
        client = session.client("s3", config=config.merge(Config(proxies={})))
    register(client.meta.events, current_access)
    # The wildcard puts it before botocore's own handlers, one of which parses every body once more, slowly.
    client.meta.events.register_first("before-parse.*.ListObjectsV2", take_page)
    return client


def open_store(bucket: str) -> S3Store:
    """Give the fast reader of one bucket, set up as boto3 is.

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
        # No switch turns the environment's proxies off. A proxy that is given takes their place;
        # this one is never asked, as its only address is excluded.
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
        retry_config={"max_retries": 0},  # tried again by boto3, then by the caller
    )


def _bucket_region(client: Any, bucket: str) -> str:
    """Ask where a bucket is: obstore, unlike boto3, does not follow S3 into another region."""
    try:
        answer = client.head_bucket(Bucket=bucket)["ResponseMetadata"]
    except ClientError as error:  # a refusal says it too
        answer = error.response["ResponseMetadata"]
    region: str = answer["HTTPHeaders"].get("x-amz-bucket-region", client.meta.region_name)
    return region


# botocore has no class for it (credentials.py, RefreshableCredentials).
_STALE_CREDENTIALS = "refreshed credentials are still expired"
_MISSING = {"NoSuchBucket", "NoSuchKey", "404", "NotFound"}


def _translate_client(error: ClientError, attempted: str, right: str = READ_AND_WRITE) -> StorageError:
    """Turn S3's answer into an error of ours; right: what the role or key needs where it is refused.

    A fault of this one object is a plain StorageError: it says nothing of the rights to other objects.
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
        return StorageError(f"{attempted}: {error}")  # which has the message
    return kind(f"{attempted}: {with_message(reason, message)}")
