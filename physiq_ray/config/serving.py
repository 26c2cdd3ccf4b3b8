"""The settings of the HTTP service.

There are three classes, and each has all settings of the one before. LiveSettings can change in a running
service, by Serve's `user_config`. ServingSettings are those that a deployment is built with (`serve run
physiq_ray.serving:build_app model=…`, or `args` in serve_config.yaml). LocalServingSettings are those of
`physiq-ray serve` on one machine.
"""

import re
from ipaddress import ip_network
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, field_validator, model_validator
from pydantic_core import PydanticCustomError

from physiq_ray.config.base import BaseSettings, Precision, Share, Texts, split_commas
from physiq_ray.config.groups import Group
from physiq_ray.constants import MAX_PIXELS, ExtraFormat


class LiveSettings(BaseSettings):
    """What Serve's `user_config` can change in a running service without losing a request."""

    model: str = Group.MODELS.field("output", "model file, or the folder that holds it", form="URI")
    min_confidence: Share | None = Group.MODELS.field(
        None,
        "confidence below which the photo shows no known pose; if not given, the model's floor, or 0.5",
        form="SHARE",
    )
    canary_model: str | None = Group.MODELS.field(
        None, "second model, which answers canary_share of the requests and is counted separately", form="URI"
    )
    canary_share: Share = Group.MODELS.field(0.1, "share of the requests that canary_model answers")
    compare_on: str | None = Group.MODELS.field(
        None,
        "manifest.parquet of photos on which a new model must not be significantly worse than the old one",
        form="URI",
    )

    @classmethod
    def of(cls, wider: "LiveSettings") -> Self:
        """Take the settings of this class from an object of a class that has more."""
        return cls.model_validate(wider.model_dump(include=set(cls.model_fields), exclude_unset=True))


class ServingSettings(LiveSettings):
    """What a deployment is built with. Tokens are not among them, only the name of their file."""

    tokens: str | None = Group.ACCESS.field(
        None,
        "file with one bearer token per line; environment: PHYSIQ_TOKENS; if not given, none is needed",
        form="FILE",
    )
    allowed_sources: Texts = Group.ACCESS.field(
        (), "buckets or prefixes whose photos a request may name by uri; if not given, none", form="URI"
    )
    trusted_proxies: Texts = Group.ACCESS.field(
        (),
        "addresses or networks of proxies whose X-Forwarded-For is trusted; if not given, none",
        form="NETWORK",
    )
    cors_origins: Texts = Group.ACCESS.field(
        (), "origins whose pages may call the service from a browser", form="ORIGIN"
    )

    poses: str = Group.ANSWERS.field(
        "mappings/poses.json", "file with pose ids and names, for models that hold no names", form="URI"
    )
    precision: Precision = Group.ANSWERS.field(
        "auto", "auto: bf16 if the hardware supports it, else fp16 on GPUs with tensor cores, else fp32"
    )
    runtime: Literal["auto", "torch", "openvino"] = Group.ANSWERS.field(
        "torch", "library that computes; auto: OpenVINO on CPUs if it is installed, else torch"
    )
    max_batch_size: int = Group.ANSWERS.field(
        16, "maximum number of photos in one forward pass", ge=1, le=512
    )
    decode_threads: int = Group.ANSWERS.field(
        2, "threads of each replica that decode photos; more keep a GPU busy with large photos", ge=1
    )
    max_pixels: int = Group.ANSWERS.field(
        64_000_000,
        "maximum number of decoded pixels of a photo; large JPEGs are decoded at a reduced size",
        ge=4096,
        le=MAX_PIXELS,
    )
    extra_formats: Annotated[tuple[ExtraFormat, ...], BeforeValidator(split_commas)] = Group.ANSWERS.field(
        (), "formats read besides JPEG, PNG, WebP, GIF, BMP and TIFF; heic needs physiq-ray[heic]"
    )
    max_photos: int = Group.ANSWERS.field(16, "maximum number of photos in one request", ge=1, le=256)

    max_body_bytes: int = Group.LIMITS.field(32 * 2**20, "maximum size of one request, in bytes", ge=1024)
    max_requests: int = Group.LIMITS.field(
        128, "maximum number of requests inside one replica; further requests get 503", ge=1, le=10_000
    )
    max_wait_s: float = Group.LIMITS.field(
        1.1, "longest expected wait in a replica's queue, in seconds; if it is longer, requests get 503", gt=0
    )
    request_timeout_s: float = Group.LIMITS.field(
        30.0, "maximum seconds of one request, including its upload", gt=0
    )
    max_uploads: int = Group.LIMITS.field(
        256, "maximum number of uploads in one replica; half of them may be slow", ge=2, le=10_000
    )
    max_slow_uploads: int = Group.LIMITS.field(32, "maximum number of slow uploads of one client", ge=1)
    slow_upload_s: float = Group.LIMITS.field(5.0, "seconds after which an upload is slow", gt=0)
    requests_per_minute: int | None = Group.LIMITS.field(
        None,
        "maximum requests per minute of one client to one replica; the client is its token or address",
        ge=1,
    )

    feedback: str | None = Group.FEEDBACK.field(
        None, "folder that keeps photos with a doubtful answer; if not given, none are kept", form="URI"
    )
    feedback_below: Share = Group.FEEDBACK.field(
        0.6, "confidence below which an answer is doubtful", form="SHARE"
    )
    feedback_share: Share = Group.FEEDBACK.field(
        1.0, "share of the doubtful photos that are kept, chosen by their content", form="SHARE"
    )
    feedback_per_hour: int = Group.FEEDBACK.field(
        100, "maximum number of photos that one replica keeps in an hour", ge=0
    )
    feedback_per_day: int = Group.FEEDBACK.field(
        500, "maximum number of photos that one replica keeps in a day", ge=0
    )
    feedback_per_pose: int = Group.FEEDBACK.field(
        100, "maximum number of photos of one predicted pose that one replica keeps in a day", ge=0
    )
    feedback_per_minute: int = Group.FEEDBACK.field(
        60, "maximum number of right poses that one client may send in a minute to one replica", ge=1
    )

    min_replicas: int = Group.REPLICAS.field(
        1, "minimum number of replicas; 0: an idle service has none", ge=0
    )
    max_replicas: int = Group.REPLICAS.field(4, "maximum number of replicas", ge=1)
    target_requests: float = Group.REPLICAS.field(
        16.0, "number of requests inside each replica that autoscaling aims at", gt=0
    )
    upscale_delay_s: float = Group.REPLICAS.field(
        10.0, "seconds of higher load after which replicas are added", ge=0
    )
    downscale_delay_s: float = Group.REPLICAS.field(
        300.0, "seconds of lower load after which replicas are removed", ge=0
    )
    cpus_per_replica: int = Group.REPLICAS.field(
        2, "CPUs of each replica; its network computes with as many threads", ge=1
    )
    gpus_per_replica: float = Group.REPLICAS.field(
        0.0, "GPUs of each replica; 0.5: two replicas share a GPU", ge=0, le=1
    )

    @model_validator(mode="after")
    def _pairs_fit(self) -> "ServingSettings":
        if self.max_replicas < self.min_replicas:
            raise PydanticCustomError(
                "pair",
                "max_replicas={most}: less than min_replicas={least}",
                {"most": self.max_replicas, "least": self.min_replicas},
            )
        return self

    @field_validator("trusted_proxies")
    @classmethod
    def _proxies_are_networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for proxy in value:
            try:
                ip_network(proxy, strict=False)
            except ValueError:
                raise ValueError(f"{proxy!r} is no address or network, such as 10.0.0.0/8") from None
        return value

    @field_validator("allowed_sources")
    @classmethod
    def _sources_are_buckets(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        wrong = [source for source in value if not source.startswith("s3://")]
        if wrong:
            raise ValueError(f"{wrong[0]!r} is no s3:// bucket or prefix")
        return value


class LocalServingSettings(ServingSettings):
    """What `physiq-ray serve` adds: where the service of one machine listens."""

    host: str = Group.ADDRESS.field(
        "127.0.0.1", "address on which the service listens; 0.0.0.0: on all networks", form="ADDRESS"
    )
    port: int = Group.ADDRESS.field(8000, "port on which the service listens", ge=1, le=65535)
    root_path: str | None = Group.ADDRESS.field(
        None, "path under which a reverse proxy shows the service, such as /poses", form="PATH"
    )
    ingress: Literal["auto", "haproxy", "proxy"] = Group.ADDRESS.field(
        "auto",
        "Ray's HAProxy or Serve's own proxy; auto: proxy on loopback, else haproxy if it is installed",
    )

    @field_validator("root_path")
    @classmethod
    def _root_path_is_a_path(cls, value: str | None) -> str | None:
        path = (value or "").rstrip("/")
        if path and not re.fullmatch(r"(/(?!\.)[A-Za-z0-9._~-]+)+", path):
            raise ValueError("a path starts with / and has letters, digits, '.', '_', '~' and '-'")
        return path or None
