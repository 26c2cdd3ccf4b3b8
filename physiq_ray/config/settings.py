"""The settings of train, audit, evaluate, predict and demo; cleanse and sync have their first part too."""

import re
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import BeforeValidator, field_validator, model_validator
from pydantic_core import PydanticCustomError

from physiq_ray.config.base import BaseSettings, Precision, Share, Texts, split_commas
from physiq_ray.config.groups import Group

LABEL_FIELDS = ("pose_id", "name", "source", "split")  # group is missing: group_field names its column
MIN_SIDE_PX, MAX_SIDE_PX = 64, 1024  # of the network's input


def _split_pairs(value: object, form: str) -> object:
    """Split `checkins=checkin-poses,training=workout-images` into a dict; a flag gives a tuple of pairs."""
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


class SourceSettings(BaseSettings):
    """Where photos and labels are. Every command that lists buckets has these settings."""

    sources: Texts = Group.DATA.field(
        (), "where the photos are: s3://bucket[/prefix] or a folder; several are allowed", form="URI"
    )
    labels: Texts = Group.DATA.field(
        ("mappings/db_labels.json",),
        "label files (JSON, JSON Lines, CSV or Parquet)",
        form="URI",
        min_length=1,
    )
    poses: str = Group.DATA.field(
        "mappings/poses.json",
        "file with pose ids and names; if the default file is missing, the eight built-in poses",
        form="URI",
    )
    source_buckets: Annotated[dict[str, str], BeforeValidator(_split_buckets)] = Group.DATA.field(
        {},
        "bucket or folder that a source in the labels means, for example checkins=checkin-poses",
        form="SOURCE=BUCKET",
    )
    label_fields: Annotated[dict[str, str], BeforeValidator(_split_fields)] = Group.DATA.field(
        {},
        "column of the label files that holds pose_id, name, source or split: pose_id=class",
        form="FIELD=COLUMN",
    )
    anonymous: Literal["no", "yes"] = Group.DATA.field(
        "no", "yes: send unsigned requests to the sources' buckets, for public photos"
    )
    requester_pays: Literal["no", "yes"] = Group.DATA.field(
        "no", "yes: pay for the requests to the sources' buckets if their owners do not"
    )

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
    """How labelled photos are divided into training, validation and test."""

    validation_share: float = Group.SPLIT.field(
        0.2, "share of each pose's photos that is used for validation", gt=0, lt=1
    )
    test_share: float = Group.SPLIT.field(
        0.0, "share of each pose's photos that only tests the finished model", ge=0, lt=1
    )
    group_pattern: str | None = Group.SPLIT.field(
        None, "regular expression on the key; photos with the same match stay in one split", form="REGEX"
    )
    group_field: str | None = Group.SPLIT.field(
        None,
        "column of the label files; photos with the same value, such as an athlete, stay in one split",
        form="COLUMN",
        min_length=1,
    )
    group_near_duplicates: Literal["no", "yes"] = Group.SPLIT.field(
        "no",
        "yes: read all photos before the split; those that look nearly the same stay in one split",
    )
    seed: int = Group.SPLIT.field(
        42, "seed of split, shuffling, augmentation and random weights", ge=0, lt=2**32
    )

    @field_validator("group_pattern")
    @classmethod
    def _pattern_compiles(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                re.compile(value)
            except re.error as error:
                raise ValueError(f"not a regular expression: {error}") from error
        return value

    @model_validator(mode="after")
    def _photos_are_left_to_train_on(self) -> Self:
        if self.validation_share + self.test_share >= 1:
            raise PydanticCustomError(
                "pair",
                f"validation_share={self.validation_share:g}, test_share={self.test_share:g}: together they "
                "must be less than 1, because the rest is for training",
            )
        return self


# The settings that decide the split of a photo, besides the photos and the labels.
SPLIT_FIELDS = tuple(name for name in SplitSettings.model_fields if name not in SourceSettings.model_fields)


class Settings(SplitSettings):
    """What a run needs to know. Every setting has a default, but a run needs sources or a manifest."""

    manifest: str | None = Group.DATA.field(
        None, "saved manifest (Parquet) that is used instead of sources", form="URI"
    )
    limit: int | None = Group.DATA.field(
        None, "largest number of photos of each pose, for a quick trial; if not given, all are used", ge=4
    )
    max_unreadable_share: Share = Group.DATA.field(
        0.05, "largest share of unreadable photos; the command stops if there are more"
    )

    weights: str = Group.MODEL.field(
        "imagenet", "starting weights: imagenet, random, or a file", form="imagenet|random|URI"
    )
    image_size: int = Group.MODEL.field(
        224,
        "side of the network's square input, in pixels",
        form="PIXELS",
        ge=MIN_SIDE_PX,
        le=MAX_SIDE_PX,
    )
    train_sizes: Annotated[tuple[int, ...], BeforeValidator(split_commas)] = Group.MODEL.field(
        (), "sides in pixels that are trained one after the other; the last is image_size", form="PIXELS"
    )
    precision: Precision = Group.MODEL.field(
        "auto", "auto: bf16 if the hardware supports it, else fp16 on GPUs with tensor cores, else fp32"
    )
    batch_norm: Literal["local", "sync"] = Group.MODEL.field(
        "local", "local: batch statistics of each worker's own photos; sync: of all workers' photos"
    )
    target_precision: float = Group.MODEL.field(
        0.95,
        "share of right answers for which the floor is chosen; photos below it show no known pose",
        gt=0,
        lt=1,
    )
    compile: Literal["no", "yes"] = Group.MODEL.field(
        "no", "yes: torch.compile, which takes minutes at the start and makes steps on GPUs faster"
    )
    reproducible: Literal["no", "yes"] = Group.MODEL.field(
        "no", "yes: equal runs have equal results on GPUs too, with slower steps; on CPUs they always have"
    )

    epochs: int = Group.OPTIMISER.field(50, "maximum number of epochs", ge=1)
    patience: int = Group.OPTIMISER.field(
        10, "number of epochs without a better validation accuracy after which the run stops", ge=1
    )
    batch_size: int = Group.OPTIMISER.field(
        32, "photos per step and worker; if not given, 64 for workers with GPUs", ge=1, le=4096
    )
    learning_rate: float = Group.OPTIMISER.field(
        1e-4,
        "Adam's learning rate, with a schedule its peak; if not given, larger for large steps on GPUs",
        gt=0,
        le=1,
    )
    schedule: Literal["constant", "cosine"] = Group.OPTIMISER.field(
        "constant", "learning rate over the run; cosine: a warm-up, then a cosine down to 0"
    )
    warmup_epochs: float = Group.OPTIMISER.field(
        1.0, "epochs of linear warm-up, if the schedule is cosine", ge=0
    )
    head_epochs: int = Group.OPTIMISER.field(
        0, "number of first epochs that train only the last layer, on a frozen backbone", ge=0
    )
    backbone_rate: float = Group.OPTIMISER.field(
        1.0,
        "learning rate of all layers before the last, as a share of learning_rate",
        form="SHARE",
        ge=0,
        le=1,
    )
    gradient_accumulation: int = Group.OPTIMISER.field(
        1, "number of batches whose gradients are combined into one step", ge=1, le=1024
    )
    max_gradient_norm: float | None = Group.OPTIMISER.field(
        None, "norm to which longer gradients are shortened; if not given, they are not", gt=0
    )

    augment: Literal["none", "light", "strong"] = Group.REGULARISATION.field(
        "light", "random flips, shifts, zooms and changes of light in training photos; strong also erases"
    )
    mixup: float = Group.REGULARISATION.field(
        0.0, "both parameters of mixup's Beta distribution; 0: photos are not mixed", ge=0, le=10
    )
    label_smoothing: float = Group.REGULARISATION.field(
        0.0, "share of each target that is spread over all poses", form="SHARE", ge=0, lt=1
    )
    class_weights: Literal["none", "balanced"] = Group.REGULARISATION.field(
        "none", "balanced: photos of rare poses count more in the loss"
    )
    ema_decay: float = Group.REGULARISATION.field(
        0.0, "decay of the moving average of the weights that is validated and saved; 0: none", ge=0, lt=1
    )

    cache: Literal["auto", "gpu", "memory", "disk", "none"] = Group.CACHE.field(
        "auto", "where decoded photos are kept; auto: the first of GPU, Ray's memory and disk that has room"
    )
    cache_dir: str | None = Group.CACHE.field(
        None, "folder of decoded photos, also for later runs; if not given, ~/.cache/physiq-ray", form="URI"
    )
    cache_limit_gib: float = Group.CACHE.field(
        100.0, "GiB that cache_dir may hold; the least recently used photos are deleted first", gt=0
    )

    num_workers: int = Group.CLUSTER.field(
        1, "number of data-parallel training workers; 0: train in this process, for a debugger", ge=0
    )
    min_workers: int | None = Group.CLUSTER.field(
        None, "number of workers that is enough while the cluster has no room for num_workers", ge=1
    )
    use_gpu: Literal["auto", "yes", "no"] = Group.CLUSTER.field(
        "auto", "yes: each training worker has a GPU; auto: if the cluster has GPUs"
    )
    placement: Literal["auto", "pack", "spread"] = Group.CLUSTER.field(
        "auto", "pack: workers on few nodes; spread: on many; auto: pack with GPUs, spread without"
    )
    decode_resource: str | None = Group.CLUSTER.field(
        None, "custom Ray resource of the nodes that decode photos; if not given, all nodes", form="NAME"
    )
    wait_for_nodes_s: float = Group.CLUSTER.field(
        0.0, "seconds to wait until the autoscaler has started missing nodes; 0: fail at once", ge=0
    )
    max_failures: int = Group.CLUSTER.field(
        3, "number of times that a run recovers from lost workers or nodes; -1: no limit", ge=-1
    )
    stall_timeout_s: float = Group.CLUSTER.field(
        300.0, "seconds without a response after which a worker counts as lost", ge=10
    )

    run_name: str | None = Group.RUN.field(None, "name of the run; needed to resume it", form="NAME")
    max_hours: float | None = Group.RUN.field(
        None, "hours after which the run stops; no epoch begins that would end later", gt=0
    )
    output: str = Group.RUN.field("output", "folder for model files and reports", form="URI")
    storage: str = Group.RUN.field(
        "runs", "folder for checkpoints; on a cluster, on storage that all nodes share", form="URI"
    )
    mlflow: str | None = Group.RUN.field(
        None,
        "MLflow server to which the run is logged, http://host:5000; needs physiq-ray[mlflow]",
        form="URL",
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
    def _rename_old_value(cls, value: object) -> object:
        # Runs that older versions started have the old name, and must be able to resume.
        return "memory" if value == "object_store" else value

    @field_validator("train_sizes")
    @classmethod
    def _sizes_are_in_range(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        wrong = [size for size in value if not MIN_SIDE_PX <= size <= MAX_SIDE_PX]
        if wrong:
            raise ValueError(f"{wrong[0]} px; sizes go from {MIN_SIDE_PX} to {MAX_SIDE_PX}")
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
        if self.num_workers == 0 and self.max_hours is not None:
            raise PydanticCustomError(
                "pair",
                "num_workers=0, max_hours={hours}: a run in this process cannot be resumed; leave one out",
                {"hours": f"{self.max_hours:g}"},
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
