"""Sources and places of results: what may be done there, tried for real on an object of our own.

The object's key is the prefix and `.physiq-ray-doctor-` with a random number. It has no photo's extension, so
that no other command takes it for a photo, and it is removed again.
"""

import secrets
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from botocore.exceptions import ClientError

from physiq_ray.doctor.access import Trials
from physiq_ray.doctor.finding import Finding, State
from physiq_ray.errors import DeniedError, StorageError, UnreachableError
from physiq_ray.storage import Bucket, Folder, is_photo
from physiq_ray.storage.deletion import Condition, find_condition
from physiq_ray.storage.folders import list_files
from physiq_ray.storage.pages import PAGE, ObjectPage
from physiq_ray.storage.refusal import BAD_CLOCK, BAD_KEYS, read_error
from physiq_ray.storage.remote import ALREADY_THERE
from physiq_ray.storage.s3 import translated

SOURCE_KEYS = 1000  # of the first page, among which a photo to read is looked for

# S3's answers to a request for a bucket of another region.
_ELSEWHERE = {
    *("PermanentRedirect", "TemporaryRedirect", "301", "307"),
    *("AuthorizationHeaderMalformed", "IllegalLocationConstraintException"),
}
_ACTIONS = {
    "list": "s3:ListBucket",
    "get": "s3:GetObject",
    "put": "s3:PutObject",
    "delete": "s3:DeleteObject",
    "tag": "s3:PutObjectTagging",
}


def check_folder(folder: Folder) -> Iterator[Finding]:
    """Look for a photo in a local folder that is a source. Raises StorageError: it cannot be listed."""
    num_files = 0
    for page in list_files(folder.path):
        num_files += len(page.keys)
        if any(is_photo(key) for key in page.keys):
            yield Finding("source", str(folder), State.OK, "has photos")
            return
    yield Finding(
        *("source", str(folder), State.WARNING, f"no photo among its {num_files} files"),
        "give the folder that holds the photos",
    )


def check_source(trials: Trials, bucket: Bucket) -> Iterator[Finding]:
    """Try what commands do with a source; only listing and reading are needed.

    Raises StorageError: the listing failed for a reason that other buckets may share.
    """
    tries = _Tries(trials, bucket)
    page = tries.list_page(SOURCE_KEYS)
    if page is not None:
        sizes = zip(page.keys, page.sizes, strict=True)
        photo = next((key for key, size in sizes if is_photo(key) and size), None)
        if photo is not None:
            tries.attempt("get", lambda client: _read(client, bucket.name, photo))
        else:
            tries.warn(
                f"no photo among its first {len(page.keys)} objects" if page.keys else "no objects",
                "give the bucket or prefix that holds the photos",
            )
        tries.write(is_source=True)
    yield tries.conclude("source", needed=("list", "get"))


def check_target(trials: Trials, name: str, bucket: Bucket) -> Iterator[Finding]:
    """Try what a training does with the place of its results; name: output, storage or cache_dir.

    Raises StorageError: the listing failed for a reason that other buckets may share.
    """
    tries = _Tries(trials, bucket)
    if tries.list_page(1) is not None:
        tries.write(is_source=False)
    # A cache is only added to; a run also has locks.
    more = () if name == "cache_dir" else ("delete", "conditional writes")
    yield tries.conclude(name, needed=("list", "put", "get", *more))


@dataclass
class _Tries:
    """The results of all tries in one bucket or prefix."""

    trials: Trials
    bucket: Bucket
    able: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    errors: dict[str, StorageError] = field(default_factory=dict)
    warnings: list[tuple[str, str]] = field(default_factory=list)  # with their remedies
    region: str | None = None

    def list_page(self, num_keys: int) -> ObjectPage | None:
        """List the first keys; None if this bucket refuses it. Raises StorageError that others may share."""
        name, client = self.bucket.name, self.trials.start()[1]
        request = {"Bucket": name, "Prefix": self.bucket.prefix, "MaxKeys": num_keys}
        try:
            with translated("list", right=self._right("list")):
                answer = client.list_objects_v2(**request)
                self._note_region(answer["ResponseMetadata"], client)
        except StorageError as error:
            cause = error.__cause__
            if not isinstance(cause, ClientError):
                raise
            if read_error(cause)[0] in {BAD_CLOCK, *BAD_KEYS}:
                raise
            if read_error(cause)[0] in _ELSEWHERE:
                self._note_region(cause.response.get("ResponseMetadata", {}), client, cause)
            self.errors["list"] = error
            return None
        page: ObjectPage | None = answer.get(PAGE)
        if page is None:
            raise UnreachableError(
                "list: the answer is not a listing; check that AWS_ENDPOINT_URL is that of an S3 server"
            )
        self.able.append("list")
        if self.region is not None:
            self.warn(f"it is in {self.region}", f"set AWS_REGION={self.region}: every request is redirected")
        return page

    def write(self, *, is_source: bool) -> None:
        """Write the test object, use it in all ways, and remove it."""
        bucket, key = self.bucket.name, f"{self.bucket.prefix}.physiq-ray-doctor-{secrets.token_hex(8)}"
        if not self.attempt("put", lambda _: self.trials.put(bucket, key)):
            error = self.errors["put"]
            if is_source and isinstance(error, DeniedError):
                self.notes.append("read-only: cleanse cannot delete here")
            elif is_source:
                self.warn(*self._explain("put"))
            return
        if "get" not in self.able and "get" not in self.errors:
            self.attempt("get", lambda client: _read(client, bucket, key))
        self.attempt("tag", lambda client: _tag(client, bucket, key))
        self._try_conditional_writes(key, is_needed=not is_source)
        if not self.attempt("delete", lambda _: self.trials.remove(bucket, key)):
            self.notes.extend(["not delete: cleanse cannot delete here"] if is_source else [])
            self.trials.leftovers.pop((bucket, key), None)
            self.warn("the test object stays", f"delete s3://{bucket}/{key}")
        elif is_source:
            self._try_conditional_deletions(key)
        self._note_versioning()

    def attempt(self, verb: str, call: Callable[[Any], object]) -> bool:
        """Try one request, and keep what came of it."""
        try:
            with translated(verb, right=self._right(verb)):
                call(self.trials.start()[1])
        except StorageError as error:
            self.errors[verb] = error
            return False
        self.able.append(verb)
        return True

    def warn(self, text: str, remedy: str) -> None:
        """Add a warning."""
        self.warnings.append((text, remedy))

    def conclude(self, check: str, *, needed: tuple[str, ...]) -> Finding:
        """Make one line of all results; what is not needed is only said."""
        subject = str(self.bucket)
        failed = [verb for verb in needed if verb in self.errors]
        if failed:
            text, remedy = self._explain(*failed)
            problems = [text, *(text for text, _ in self.warnings)]
            remedies = [remedy, *(remedy for _, remedy in self.warnings)]
            return Finding(check, subject, State.WRONG, "; ".join(problems), "; ".join(remedies))
        texts = [*(text for text, _ in self.warnings), f"can {', '.join(self.able)}", *self.notes]
        remedies = [remedy for _, remedy in self.warnings]
        state = State.WARNING if remedies else State.OK
        return Finding(check, subject, state, "; ".join(texts), "; ".join(remedies))

    def _explain(self, *failed: str) -> tuple[str, str]:
        """Say what cannot be done, with the reason of the first, and its remedy."""
        reason, _, remedy = str(self.errors[failed[0]]).removeprefix(f"{failed[0]}: ").partition("; ")
        if failed[0] == "list" and self.region is not None:
            reason, remedy = f"it is in {self.region}", f"set AWS_REGION={self.region}"
        return f"cannot {', '.join(failed)}: {reason}", remedy or "try again, or give another place"

    def _try_conditional_writes(self, key: str, *, is_needed: bool) -> None:
        """Write the object again if it does not exist; the lock of a run needs the refusal."""
        try:
            with translated("conditional writes", right=self._right("put")):
                try:
                    self.trials.put(self.bucket.name, key, IfNoneMatch="*")
                except ClientError as error:
                    if read_error(error)[0] not in ALREADY_THERE:
                        raise
                    self.notes.append("conditional writes")
                    return
        except StorageError as error:
            self.errors["conditional writes"] = error
            return
        if is_needed:
            self.warn("the server ignores conditions of writes", "let only one training at a time write here")

    def _try_conditional_deletions(self, key: str) -> None:
        place = self.bucket.name, key
        self.trials.leftovers[place] = False  # find_condition writes it again and removes it
        with suppress(StorageError):
            if find_condition(self.bucket, key) == Condition.LOOK:
                self.notes.append("the server ignores conditions of deletions, so cleanse looks before each")
            else:
                self.notes.append("conditional deletions")
        self.trials.leftovers.pop(place, None)

    def _note_versioning(self) -> None:
        client = self.trials.start()[1]
        with suppress(StorageError), translated("versioning"):
            status = client.get_bucket_versioning(Bucket=self.bucket.name).get("Status")
            self.notes.append("versioned" if status == "Enabled" else "not versioned")

    def _note_region(self, answer: dict[str, Any], client: Any, error: ClientError | None = None) -> None:
        """Keep the bucket's region if requests are signed for another one."""
        fields = error.response.get("Error", {}) if error is not None else {}
        region = answer.get("HTTPHeaders", {}).get("x-amz-bucket-region") or fields.get("Region")
        if region and region != client.meta.region_name:
            self.region = region

    def _right(self, verb: str) -> str:
        action = _ACTIONS[verb]
        return f"{action} on arn:aws:s3:::{self.bucket.name}" + ("" if verb == "list" else "/*")


def _read(client: Any, bucket: str, key: str) -> None:
    client.get_object(Bucket=bucket, Key=key, Range="bytes=0-0")["Body"].read()


def _tag(client: Any, bucket: str, key: str) -> None:
    tags = {"TagSet": [{"Key": "physiq-ray", "Value": "doctor"}]}
    client.put_object_tagging(Bucket=bucket, Key=key, Tagging=tags)
