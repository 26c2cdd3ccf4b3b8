"""The routes of the service, and what each of them returns.

    POST /v1/predict   one photo → one answer; several → {"answers": […]} in the order of the photos
    POST /v1/feedback  the right pose of a photo, if the setting feedback is given
    GET  /v1/model     which model answers, and for which poses
    GET  /healthz      200 if the model answers
    GET  /docs         OpenAPI
    GET  /             the page

The table at the top of `physiq_ray/serving/edge.py` shows where a request can be refused.
"""

import asyncio
import time
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import FileResponse, JSONResponse, Response
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from physiq_ray.errors import PhysiqError
from physiq_ray.serving.access import FEEDBACK, PREDICT, Access
from physiq_ray.serving.body import Upload, read_uploads
from physiq_ray.serving.corrections import CORRECTION_BODY, FEEDBACK_PATH, Correction, read_correction
from physiq_ray.serving.drift import Drift
from physiq_ray.serving.edge import PREDICT_PATH, Edge
from physiq_ray.serving.metrics import Metrics
from physiq_ray.serving.models import CANARY, MAIN, Served
from physiq_ray.serving.pace import Room
from physiq_ray.serving.refusals import RequestError, to_request_error, too_large, unavailable
from physiq_ray.serving.requestlog import RequestLog, client_request_id
from physiq_ray.serving.schema import (
    BODY,
    REFUSALS,
    Answer,
    Answers,
    DriftAnswer,
    DriftDistance,
    FloorRule,
    Health,
    ModelAnswer,
    NamedAnswer,
    NamedError,
    Pose,
    Role,
    min_confidence_of,
)
from physiq_ray.serving.service import Service
from physiq_ray.serving.uploads import Uploads

PAGE = Path(__file__).parent / "page"


class Handlers:
    """The handlers of one replica's routes."""

    def __init__(self, service: Service, log: RequestLog) -> None:
        """Read the tokens.

        Raises ServingError: the tokens cannot be read, or there are none.
        """
        self.service = service
        self._log = log
        self._settings = service.settings
        self._access = Access(self._settings)
        self.room = Room(service.pace, self._settings)
        self._uploads = Uploads(
            max_uploads=self._settings.max_uploads,
            max_slow_per_client=self._settings.max_slow_uploads,
            slow_after_s=self._settings.slow_upload_s,
        )

    async def allow(
        self,
        request: Request,
        _credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(HTTPBearer(auto_error=False))],
    ) -> None:
        """Check that the client may send the request, and keep the client's name in the request's state.

        Raises RequestError: 401, 403, or 429.
        """
        request.state.client = self._access.check(request, PREDICT)

    async def allow_feedback(
        self,
        request: Request,
        _credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(HTTPBearer(auto_error=False))],
    ) -> None:
        """Check that the client may send feedback, and keep the client's name in the request's state.

        Raises RequestError: 401, 403, or 429.
        """
        request.state.client = self._access.check(request, FEEDBACK)

    async def predict(self, request: Request) -> Response:
        """Predict the photos of one request."""
        length = request.headers.get("content-length", "")
        if length.isdecimal() and int(length) > self._settings.max_body_bytes:
            raise too_large(self._settings.max_body_bytes)
        timeout_s, started_s = self._settings.request_timeout_s, time.monotonic()
        async with self._uploads.receiving(request.state.client, timeout_s=timeout_s):
            uploads = await read_uploads(request, self._settings)
        if refusal := self.room.refusal():  # others may have arrived during the upload
            raise refusal
        left_s = timeout_s - (time.monotonic() - started_s)
        with self.room.occupied():
            try:
                async with asyncio.timeout(left_s):
                    results = await asyncio.gather(*(self._answer(upload) for upload in uploads))
            except TimeoutError:
                raise RequestError(
                    503, "timeout", f"no answer within {timeout_s:g} s", retry_after_s=5
                ) from None
        self._log.note(result.model.version for result in results if isinstance(result, Answer))
        if len(results) == 1:
            result = results[0]
            if isinstance(result, RequestError):
                raise result
            return _to_json(result)
        return _to_json(
            Answers(
                answers=[
                    _with_name(upload.name, result) for upload, result in zip(uploads, results, strict=True)
                ]
            )
        )

    async def _answer(self, upload: Upload) -> Answer | RequestError:
        """Predict one photo of a request; its error does not affect the other photos."""
        try:
            data = upload.data if upload.uri is None else await self.service.fetch(upload.uri)
            if not data:
                return RequestError(400, "empty", "the photo has no bytes")
            return await self.service.answer(data, request_id=client_request_id())
        except PhysiqError as error:
            return to_request_error(error)

    async def feedback(self, request: Request) -> Response:
        """Store the right pose of a photo."""
        assert self.service.corrections is not None  # else there is no such route
        mapping = self.service.models.current.main.state.class_mapping
        async with self._uploads.receiving(request.state.client, timeout_s=self._settings.request_timeout_s):
            correction = await read_correction(request, mapping)
        await self.service.corrections.keep(correction)
        return _to_json(correction)

    async def model(self) -> Response:
        """Give the models that answer."""
        models = self.service.models.current
        return _to_json(
            ModelAnswer(
                **dict(self._role(models.main, MAIN)),
                min_confidence=min_confidence_of(models.floor_of(models.main)),
                canary=self._role(models.canary, CANARY) if models.canary else None,
                canary_share=models.live.canary_share if models.canary else 0.0,
                refused=self.service.models.refused,
                drift=_describe_drift(models.main.drift),
            )
        )

    def _role(self, served: Served, name: str) -> Role:
        state = served.state
        floor = self.service.models.current.floor_of(served)
        return Role(
            version=state.version,
            image_size=state.image_size,
            temperature=state.temperature,
            floor=FloorRule(score=floor.score, threshold=floor.threshold),
            poses=[
                Pose(id=pose_id, name=state.pose_names[pose_id]) for pose_id in state.class_mapping.pose_ids
            ],
            num_answers=self.service.models.num_answers[name],
        )

    async def healthz(self) -> Response:
        """Give 200 if the model answers; it is tested if no request used it recently."""
        try:
            async with asyncio.timeout(self._settings.request_timeout_s):
                await self.service.check()
        except (PhysiqError, TimeoutError) as error:
            raise unavailable() from error
        return _to_json(Health(status="ok"))


def build_api(service: Service, metrics: Metrics, log: RequestLog) -> FastAPI:
    """Build the HTTP application of a replica.

    log: notes which models answered a request.
    Raises ServingError: the tokens cannot be read, or there are none.
    """
    handlers = Handlers(service, log)
    settings = service.settings
    api = FastAPI(
        title="physiq_ray",
        version=version("physiq-ray"),
        description="Predicts the pose in a photo.",
        redoc_url=None,
    )
    allowed = [Depends(handlers.allow)]
    api.add_api_route(
        PREDICT_PATH,
        handlers.predict,
        methods=["POST"],
        dependencies=allowed,
        response_model=Answer | Answers,
        responses=REFUSALS,
        openapi_extra=BODY,
    )
    api.add_api_route(
        "/v1/model",
        handlers.model,
        dependencies=allowed,
        response_model=ModelAnswer,
        responses={status: REFUSALS[status] for status in (401, 403, 429, 503)},
    )
    if service.corrections is not None:
        api.add_api_route(
            FEEDBACK_PATH,
            handlers.feedback,
            methods=["POST"],
            dependencies=[Depends(handlers.allow_feedback)],
            response_model=Correction,
            responses={status: REFUSALS[status] for status in (401, 403, 408, 413, 422, 429, 431, 503)},
            openapi_extra=CORRECTION_BODY,
        )
    api.add_api_route("/healthz", handlers.healthz, response_model=Health, responses={503: REFUSALS[503]})
    for path, name in (("/", "page.html"), ("/page.css", "page.css"), ("/page.js", "page.js")):
        api.add_api_route(path, _file_sender(PAGE / name), include_in_schema=False)
    api.add_exception_handler(RequestError, _answer_refusal)
    api.add_exception_handler(PhysiqError, _answer_error)
    api.add_exception_handler(HTTPException, _answer_http_exception)
    # The last one added is the outermost: pages of other origins must also be able to read refusals of Edge.
    api.add_middleware(
        Edge,
        max_body_bytes=settings.max_body_bytes,
        find_refusal=handlers.room.refusal,
        count=metrics.count_request,
        max_paused=settings.max_requests,
    )
    if settings.cors_origins:
        api.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.cors_origins),
            allow_methods=["GET", "HEAD", "POST"],
            allow_headers=["Authorization", "Content-Type", "Content-Encoding", "X-Request-Id"],
            expose_headers=["Retry-After", "X-Request-Id"],
        )
    return api


def _describe_drift(drift: Drift | None) -> DriftAnswer | None:
    if drift is None:
        return None
    distances = {name: DriftDistance(**vars(found)) for name, found in drift.distances().items()}
    return DriftAnswer(num_photos=drift.num_photos, distances=distances)


def _to_json(answer: BaseModel) -> JSONResponse:
    return JSONResponse(answer.model_dump())


def _with_name(name: str | None, result: Answer | RequestError) -> NamedAnswer | NamedError:
    if isinstance(result, RequestError):
        return NamedError(name=name, **dict(result.to_answer()))
    return NamedAnswer(name=name, **dict(result))


def _file_sender(path: Path) -> Any:
    async def send_file() -> FileResponse:
        return FileResponse(path)

    return send_file


async def _answer_refusal(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    return error.to_response()


async def _answer_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, PhysiqError)
    return to_request_error(error).to_response()


async def _answer_http_exception(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "bad_request")
    response = RequestError(error.status_code, code, str(error.detail)).to_response()
    response.headers.update(error.headers or {})
    if response.headers.get("Allow") == "GET":
        response.headers["Allow"] = "GET, HEAD"
    return response
