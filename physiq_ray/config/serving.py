"""What the HTTP service needs to know.

Three groups, each with all of the one before: what a running service takes over by `user_config`, what a
deployment is built with (`serve run physiq_ray.serving:build_app model=…`, `args` in serve_config.yaml), and
what `physiq-ray serve` adds on one machine.
"""

import re
from ipaddress import ip_network
from typing import Annotated, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from physiq_ray.config.fields import Precision, Share, refuse_booleans, split_commas

Texts = Annotated[tuple[str, ...], BeforeValidator(split_commas)]


class LiveSettings(BaseModel):
    """What is changed in a running service, by Serve's `user_config`, without a lost request."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    model: str = Field("output", description="model file, or the folder or s3:// prefix of one")
    min_confidence: Share = Field(0.5, description="below it the answer is: no known pose")
    canary_model: str | None = Field(
        None, description="a second model that answers some of the requests, counted apart"
    )
    canary_share: Share = Field(0.1, description="share of the requests that canary_model answers")

    @field_validator("*", mode="before")
    @classmethod
    def _nothing_is_true_or_false(cls, value: object) -> object:
        return refuse_booleans(value)

    @classmethod
    def of(cls, wider: "LiveSettings") -> Self:
        """Give this group's part of a group that holds more."""
        return cls.model_validate(wider.model_dump(include=set(cls.model_fields), exclude_unset=True))


class ServingSettings(LiveSettings):
    """What a deployment is built with; frozen and made of plain values, without any secret."""

    poses: str = Field("mappings/poses.json", description="pose ids and names, for models without them")
    precision: Precision = Field(
        "auto", description="auto: bf16 where the hardware has it, fp16 on GPUs with tensor cores, else fp32"
    )
    runtime: Literal["auto", "torch", "openvino"] = Field(
        "torch", description="what computes; auto: OpenVINO on CPUs where it is installed, else torch"
    )
    max_batch_size: int = Field(16, ge=1, le=512, description="photos in one forward pass at most")
    max_requests: int = Field(
        128, ge=1, le=10_000, description="requests inside one replica at most; more are answered by 503"
    )
    max_wait_s: float = Field(
        1.1, gt=0, description="expected seconds in a replica's queue beyond which requests get 503"
    )
    max_uploads: int = Field(
        256, ge=2, le=10_000, description="uploads in progress in one replica at most; half of them slow ones"
    )
    max_slow_uploads: int = Field(
        32, ge=1, description="uploads of one client at most that take more than slow_upload_s"
    )
    slow_upload_s: float = Field(5.0, gt=0, description="seconds after which an upload is a slow one")
    request_timeout_s: float = Field(30.0, gt=0, description="seconds for one request, its upload included")
    max_body_bytes: int = Field(32 * 2**20, ge=1024, description="bytes of one request at most")
    max_pixels: int = Field(
        64_000_000,
        ge=4096,
        le=89_478_485,
        description="pixels decoded of one photo at most; large JPEGs are decoded at a reduced size",
    )
    extra_formats: Annotated[tuple[Literal["avif", "heic"], ...], BeforeValidator(split_commas)] = Field(
        (),
        description="avif, heic: read besides JPEG, PNG, WebP, GIF, BMP, TIFF; heic needs physiq-ray[heic]",
    )
    max_photos: int = Field(16, ge=1, le=256, description="photos in one request at most")
    allowed_sources: Texts = Field(
        (), description="s3:// buckets or prefixes whose photos requests may name by uri; none: no uris"
    )
    tokens: str | None = Field(
        None,
        description="file with one bearer token a line, or environment for PHYSIQ_TOKENS; none: open to all",
    )
    requests_per_minute: int | None = Field(
        None, ge=1, description="requests of one client (its token, or else address) to one replica"
    )
    trusted_proxies: Texts = Field(
        (), description="addresses or networks of proxies whose X-Forwarded-For is believed; none: no one's"
    )
    cors_origins: Texts = Field((), description="origins whose pages may call the service from a browser")
    feedback: str | None = Field(
        None,
        description="folder or s3:// prefix that keeps photos with a doubtful answer; none: nowhere",
    )
    feedback_below: Share = Field(0.6, description="confidence below which an answer is doubtful")
    min_replicas: int = Field(1, ge=0, description="replicas at least; 0 lets an idle service go")
    max_replicas: int = Field(4, ge=1, description="replicas at most")
    target_requests: float = Field(
        16.0, gt=0, description="requests inside each replica that autoscaling aims at"
    )
    upscale_delay_s: float = Field(10.0, ge=0, description="seconds of higher load before replicas are added")
    downscale_delay_s: float = Field(
        300.0, ge=0, description="seconds of lower load before replicas are taken away"
    )
    cpus_per_replica: int = Field(2, ge=1, description="CPUs, and threads of the network, of each replica")
    gpus_per_replica: float = Field(0.0, ge=0, le=1, description="GPUs of each replica; 0.5 puts two on one")
    decode_threads: int = Field(
        2, ge=1, description="threads of each replica that decode; more keep a GPU busy with large photos"
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
    """What `physiq-ray serve` adds: where one machine's service listens."""

    host: str = Field("127.0.0.1", description="address to listen on; 0.0.0.0 is every network's")
    port: int = Field(8000, ge=1, le=65535, description="port to listen on")
    root_path: str | None = Field(
        None, description="path under which a reverse proxy shows the service, such as /poses"
    )
    ingress: Literal["auto", "haproxy", "proxy"] = Field(
        "auto",
        description="Ray's HAProxy straight to the replicas, or Serve's own proxy; auto: the proxy on "
        "loopback, else HAProxy where there is one",
    )

    @field_validator("root_path")
    @classmethod
    def _root_path_is_a_path(cls, value: str | None) -> str | None:
        path = (value or "").rstrip("/")
        if path and not re.fullmatch(r"(/(?!\.)[A-Za-z0-9._~-]+)+", path):
            raise ValueError("a path starts with / and has letters, digits, '.', '_', '~' and '-'")
        return path or None
