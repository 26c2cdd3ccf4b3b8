"""POST /v1/feedback: the right pose of a photo, from the coach's app → a label record in the feedback folder.

A record is <feedback>/labels/<photo>-<pose>.json. The same feedback always has the same name, so sending it
again changes nothing, and two poses for one photo are two records: `physiq-ray labels merge` names them as a
conflict.
"""

import asyncio
import hashlib
import json
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, StrictInt, StringConstraints, ValidationError, model_validator
from starlette.requests import Request

from physiq_ray.constants import CORRECTIONS_FOLDER
from physiq_ray.errors import StorageError
from physiq_ray.labels import ClassMapping
from physiq_ray.serving.edge import limited
from physiq_ray.serving.refusals import RequestError
from physiq_ray.storage import join_uri, write_bytes

FEEDBACK_PATH = "/v1/feedback"
MAX_BODY_BYTES = 4096
MAX_REMEMBERED = 10_000  # records that are known to be stored
THREADS = 2
MAX_WRITING = 64
WANTED = 'send {"photo_md5": "<hex>", "pose_id": 7} or {"request_id": "<x-request-id>", "pose_id": null}'


class Correction(BaseModel):
    """The right pose of one photo, or null if it shows no known pose.

    photo_md5: of the bytes that were sent to /v1/predict. request_id: the x-request-id of that response, if
    its request had one photo.
    """

    model_config = ConfigDict(extra="forbid")

    photo_md5: Annotated[str, StringConstraints(pattern=r"^[0-9a-fA-F]{32}$", to_lower=True)] | None = None
    request_id: Annotated[str, StringConstraints(min_length=1, max_length=200)] | None = None
    pose_id: StrictInt | None

    @model_validator(mode="after")
    def _names_one_photo(self) -> "Correction":
        if (self.photo_md5 is None) == (self.request_id is None):
            raise ValueError("exactly one of photo_md5 and request_id must name the photo")
        return self

    @property
    def name(self) -> str:
        """The name of its record."""
        photo = self.photo_md5 or f"request-{hashlib.sha256(str(self.request_id).encode()).hexdigest()[:32]}"
        return f"{photo}-{'none' if self.pose_id is None else self.pose_id}.json"

    def to_record(self) -> dict[str, Any]:
        """Give it in the form of a label record."""
        photo = {"photoMd5": self.photo_md5} if self.photo_md5 else {"requestId": self.request_id}
        return {**photo, "poseId": self.pose_id, "by": "feedback", "time": datetime.now(UTC).isoformat()}


class Corrections:
    """Stores corrections; its methods are called from one event loop."""

    def __init__(self, address: str) -> None:
        """address: the folder or s3:// prefix of the setting feedback."""
        self._folder = join_uri(address, CORRECTIONS_FOLDER)
        self._known: OrderedDict[str, None] = OrderedDict()
        self._threads = ThreadPoolExecutor(THREADS, "corrections")
        self._num_writing = 0

    async def keep(self, correction: Correction) -> None:
        """Store it, unless this replica has stored it before.

        Raises RequestError: 503 it cannot be stored at the moment.
        """
        name = correction.name
        if name in self._known:
            return
        if self._num_writing >= MAX_WRITING:
            raise _unavailable()
        data = json.dumps(correction.to_record(), ensure_ascii=False).encode()
        self._num_writing += 1
        try:
            uri = join_uri(self._folder, name)
            await asyncio.get_running_loop().run_in_executor(self._threads, write_bytes, data, uri)
        except StorageError as error:
            raise _unavailable() from error
        finally:
            self._num_writing -= 1
        self._known[name] = None
        if len(self._known) > MAX_REMEMBERED:
            self._known.popitem(last=False)

    def close(self) -> None:
        """End the threads, after their current work."""
        self._threads.shutdown(wait=True, cancel_futures=True)


async def read_correction(request: Request, mapping: ClassMapping) -> Correction:
    """Read the body of a request; mapping: the poses that the model knows.

    Raises RequestError: 413 it is too long; 422 it is not a correction, or the pose is unknown.
    """
    try:
        body = await Request(request.scope, limited(request.receive, MAX_BODY_BYTES)).body()
    except RequestError as error:
        message = f"feedback has at most {MAX_BODY_BYTES} bytes; {WANTED}"
        raise RequestError(error.status, error.code, message) from error
    try:
        correction = Correction.model_validate_json(body)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        message = f"{where}: {first['msg']}" if where else first["msg"]
        raise RequestError(422, "bad_feedback", f"{message}; {WANTED}") from error
    if correction.pose_id is not None and correction.pose_id not in mapping.pose_ids:
        raise RequestError(
            422,
            "unknown_pose",
            f"pose_id={correction.pose_id}: the model knows the poses {', '.join(mapping.classes)}; send one "
            "of them, or null for no known pose",
        )
    return correction


def _unavailable() -> RequestError:
    return RequestError(
        503, "storage_unreachable", "the feedback cannot be stored at the moment", retry_after_s=10
    )


CORRECTION_BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": Correction.model_json_schema()}},
    }
}
