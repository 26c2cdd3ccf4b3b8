"""What training, auditing, evaluating and predicting need to know."""

import re
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from physiq_ray.config.fields import Precision, Share, refuse_booleans, split_commas

LABEL_FIELDS = ("pose_id", "name", "source", "split")  # what a label says, but for the group


def _split_pairs(value: object, form: str) -> object:
    """`checkins=checkin-poses,training=workout-images` → a mapping; flags come as a tuple of pairs."""
    parts = split_commas(value)
    if not isinstance(parts, tuple | list):
        return parts
    pairs = {}
    for part in parts:
        name, equals, target = str(part).partition("=")
        if not (name.strip() and equals and target.strip()):
            raise ValueError(f"{part!r} is no pair of the form {form}")
        if name.strip() in pairs:
            raise ValueError(f"{name.strip()} is given twice")
        pairs[name.strip()] = target.strip()
    return pairs


def _split_buckets(value: object) -> object:
    return _split_pairs(value, "name=bucket")


def _split_fields(value: object) -> object:
    return _split_pairs(value, "field=column")


class SourceSettings(BaseModel):
    """Where the photos and their labels are: what every command that looks at buckets needs to know.

    Frozen and made of plain values, so that it travels to Ray processes as it is. No secret is ever a
    setting: AWS access comes from the standard chain (profile, environment, role, AWS_ENDPOINT_URL).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    sources: Annotated[tuple[str, ...], BeforeValidator(split_commas)] = Field(
        (), description="where the photos lie: s3://bucket[/prefix] or a folder, several allowed"
    )
    source_buckets: Annotated[dict[str, str], BeforeValidator(_split_buckets)] = Field(
        {}, description="a label's source and the bucket (or folder) it means: checkins=checkin-poses"
    )
    poses: str = Field(
        "mappings/poses.json",
        description="pose ids and names, a path or s3:// address; without the default file the eight shipped",
    )
    labels: Annotated[tuple[str, ...], BeforeValidator(split_commas)] = Field(
        ("mappings/db_labels.json",),
        min_length=1,
        description="JSON, JSON Lines, CSV or Parquet files of labels, paths or s3:// addresses",
    )
    label_fields: Annotated[dict[str, str], BeforeValidator(_split_fields)] = Field(
        {},
        description="columns of the labels with other names than usual: pose_id=class, name, source or split",
    )
    requester_pays: Literal["no", "yes"] = Field(
        "no", description="pay for the requests to the sources' buckets, where their owners do not"
    )
    anonymous: Literal["no", "yes"] = Field(
        "no", description="send unsigned requests to the sources' buckets: public photos, no credentials"
    )

    @field_validator("*", mode="before")
    @classmethod
    def _nothing_is_true_or_false(cls, value: object) -> object:
        return refuse_booleans(value)

    @field_validator("label_fields")
    @classmethod
    def _fields_are_known(cls, value: dict[str, str]) -> dict[str, str]:
        for name in value:
            if name not in LABEL_FIELDS:
                hint = "; group_field names the column of groups" if name == "group" else ""
                raise ValueError(f"{name!r} is none of {', '.join(LABEL_FIELDS)}{hint}")
        return value

    @field_validator("sources", "labels")
    @classmethod
    def _addresses_are_distinct(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        repeated = {address for address in value if value.count(address) > 1}
        if repeated:
            raise ValueError(f"{', '.join(sorted(repeated))} is listed twice")
        return value

    @model_validator(mode="after")
    def _somebody_pays(self) -> Self:
        if self.requester_pays == self.anonymous == "yes":
            raise PydanticCustomError(
                "pair",
                "requester_pays=yes, anonymous=yes: S3 refuses requests that nobody signs and pays for",
            )
        return self


class SplitSettings(SourceSettings):
    """How labelled photos are divided into training and validation."""

    validation_share: float = Field(
        0.2, gt=0, lt=1, description="share of each pose's photos kept for validation"
    )
    group_pattern: str | None = Field(
        None, description="regular expression on the key; photos with the same match stay on one side"
    )
    group_field: str | None = Field(
        None,
        min_length=1,
        description="column of the labels whose photos with one value stay on one side: an athlete's id, say",
    )
    seed: int = Field(42, ge=0, lt=2**32, description="seed of split, shuffling, augmentation and weights")

    @field_validator("group_pattern")
    @classmethod
    def _pattern_compiles(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                re.compile(value)
            except re.error as error:
                raise ValueError(f"not a regular expression: {error}") from error
        return value


class Settings(SplitSettings):
    """What a run needs to know, typed and bounded. Every field has a default but `sources`."""

    manifest: str | None = Field(
        None, description="a saved manifest (Parquet file or s3:// address) in place of sources"
    )
    output: str = Field("output", description="folder or s3:// prefix for model files and reports")
    weights: str = Field(
        "imagenet", description="starting weights: imagenet, random, or a file or s3:// address"
    )
    image_size: int = Field(224, ge=64, le=1024, description="side of the square the network sees, in pixels")
    batch_size: int = Field(
        32, ge=1, le=4096, description="photos per step and worker; left out, 64 where workers have GPUs"
    )
    learning_rate: float = Field(
        1e-4,
        gt=0,
        le=1,
        description="Adam's learning rate, the peak of a schedule; left out, larger for large steps on GPUs",
    )
    schedule: Literal["constant", "cosine"] = Field(
        "constant", description="learning rate over the run; cosine warms up first"
    )
    warmup_epochs: float = Field(
        1.0, ge=0, description="epochs of linear warm-up, where the schedule has one"
    )
    head_epochs: int = Field(
        0, ge=0, description="first epochs that train the last layer only, on a frozen backbone"
    )
    backbone_rate: float = Field(
        1.0, ge=0, le=1, description="learning rate of all layers before the last, as a share of its rate"
    )
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="share of the target spread over all poses")
    class_weights: Literal["none", "balanced"] = Field(
        "none", description="balanced: photos of rare poses weigh more in the loss"
    )
    augment: Literal["none", "light", "strong"] = Field(
        "light",
        description="random flips, shifts, zooms and light changes of training photos; strong erases too",
    )
    mixup: float = Field(
        0.0, ge=0, le=10, description="both parameters of mixup's Beta distribution; 0 mixes no photos"
    )
    train_sizes: Annotated[tuple[int, ...], BeforeValidator(split_commas)] = Field(
        (),
        description="sides in pixels to train at, one after the other, the last image_size: 128,160,224",
    )
    gradient_accumulation: int = Field(
        1, ge=1, le=1024, description="batches whose gradients make one step together"
    )
    max_gradient_norm: float | None = Field(
        None, gt=0, description="longer gradients are shortened to this norm"
    )
    ema_decay: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="moving average of the weights, to validate with and to keep; 0 keeps none",
    )
    batch_norm: Literal["local", "sync"] = Field(
        "local", description="batch norms over each worker's own photos, or over those of all workers"
    )
    epochs: int = Field(50, ge=1, description="epochs at most")
    patience: int = Field(10, ge=1, description="epochs without a better validation accuracy before stopping")
    num_workers: int = Field(1, ge=1, description="training workers, data-parallel")
    min_workers: int | None = Field(
        None, ge=1, description="go on with as few workers as this while the cluster has room for no more"
    )
    use_gpu: Literal["auto", "yes", "no"] = Field("auto", description="one GPU per training worker")
    placement: Literal["auto", "pack", "spread"] = Field(
        "auto", description="where training workers go; auto: with GPUs on few nodes, else on many"
    )
    decode_resource: str | None = Field(
        None, description="custom Ray resource of the nodes that decode; none: wherever a CPU is free"
    )
    wait_for_nodes_s: float = Field(
        0.0, ge=0, description="seconds that the autoscaler has to bring missing nodes; 0 fails at once"
    )
    precision: Precision = Field(
        "auto", description="auto: bf16 where the hardware has it, fp16 on GPUs with tensor cores, else fp32"
    )
    reproducible: Literal["no", "yes"] = Field(
        "no",
        description="equal epoch tables of equal runs on GPUs too, for slower steps; CPUs always do that",
    )
    compile: Literal["no", "yes"] = Field(
        "no", description="torch.compile: minutes at the start, for faster steps on GPUs"
    )
    cache: Literal["auto", "gpu", "memory", "disk", "none"] = Field(
        "auto",
        description="where decoded photos are kept; auto: GPU, Ray's memory or disk, the first that fits",
    )
    cache_dir: str | None = Field(
        None,
        description="folder or s3:// prefix of decoded photos, for later runs too; else ~/.cache/physiq-ray",
    )
    cache_limit_gib: float = Field(
        100.0, gt=0, description="GiB of decoded photos in cache_dir; the least recently used make room"
    )
    max_unreadable_share: Share = Field(
        0.05, description="stop when more than this share of the photos cannot be read"
    )
    max_failures: int = Field(3, ge=-1, description="lost workers or nodes to recover from; -1 without limit")
    stall_timeout_s: float = Field(
        300.0, ge=10, description="seconds after which a worker that does not answer is given up"
    )
    run_name: str | None = Field(None, description="name of the run; needed to resume it")
    storage: str = Field(
        "runs", description="folder or s3:// prefix for Ray's checkpoints, on shared storage"
    )
    mlflow: str | None = Field(
        None, description="tracking server to log the run to, http://host:5000; needs physiq-ray[mlflow]"
    )

    @field_validator("mlflow")
    @classmethod
    def _address_has_no_password(cls, value: str | None) -> str | None:
        if value is not None and "@" in urlsplit(value).netloc:
            raise ValueError(
                "give user and password by MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD: "
                "settings are kept in the model file"
            )
        return value

    @field_validator("cache", mode="before")
    @classmethod
    def _older_runs_go_on(cls, value: object) -> object:
        # A run that was started under the name that the kind had before.
        return "memory" if value == "object_store" else value

    @field_validator("train_sizes")
    @classmethod
    def _sizes_are_in_range(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        wrong = [size for size in value if not 64 <= size <= 1024]
        if wrong:
            raise ValueError(f"{wrong[0]} px; sizes go from 64 to 1024")
        return value

    @model_validator(mode="after")
    def _pairs_fit(self) -> "Settings":
        if self.train_sizes and self.train_sizes[-1] != self.image_size:
            raise PydanticCustomError(
                "pair",
                "train_sizes={sizes}: the last must be image_size={side}",
                {"sizes": ",".join(map(str, self.train_sizes)), "side": self.image_size},
            )
        if self.min_workers is not None and self.min_workers > self.num_workers:
            raise PydanticCustomError(
                "pair",
                "min_workers={least}: more than num_workers={most}",
                {"least": self.min_workers, "most": self.num_workers},
            )
        if self.batch_norm == "sync" and self.compile == "yes":
            raise PydanticCustomError(
                "pair",
                "batch_norm=sync, compile=yes: torch.compile cannot wait for other workers; "
                "leave one at its default",
            )
        if self.head_epochs and self.head_epochs >= self.epochs:
            raise PydanticCustomError(
                "pair",
                "head_epochs={head}: none of epochs={epochs} is left for the whole network",
                {"head": self.head_epochs, "epochs": self.epochs},
            )
        return self

    @field_validator("run_name")
    @classmethod
    def _run_name_is_a_folder_name(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", value):
            raise ValueError("letters, digits, '.', '_' and '-' only, at most 100")
        return value
