"""The sizes of the measurements of `gpu.py`, and the table that it prints."""

from dataclasses import dataclass, field

import torch


@dataclass(frozen=True)
class Sizes:
    """The sizes of the measurements: full on a GPU, or small to test the script."""

    device: torch.device
    side_px: int
    step_batches: tuple[int, ...]
    train_batches: tuple[int, ...]
    caches: tuple[str, ...]
    modes: tuple[str, ...]
    seconds: float  # of each measurement
    warm_steps: int
    thumbnails: int
    phones: int
    different_phones: int
    kept: int
    predict_batches: tuple[int, ...]

    @property
    def is_cuda(self) -> bool:
        """Whether the script runs on a GPU; on a CPU, it is only tested."""
        return self.device.type == "cuda"


FULL = Sizes(
    device=torch.device("cuda", 0),
    side_px=224,
    step_batches=(32, 64, 256),
    train_batches=(32, 256),
    caches=("memory", "gpu"),
    modes=("eager", "eager, reproducible", "fp16", "compiled"),
    seconds=2.0,
    warm_steps=8,
    thumbnails=8000,
    phones=1600,
    different_phones=8,
    kept=7680,
    predict_batches=(1, 16, 32, 256),
)
SMOKE = Sizes(
    device=torch.device("cpu"),
    side_px=64,
    step_batches=(4,),
    train_batches=(8,),
    caches=("memory",),
    modes=("eager", "eager, reproducible"),
    seconds=0.3,
    warm_steps=1,
    thumbnails=48,
    phones=16,
    different_phones=1,
    kept=64,
    predict_batches=(1, 4),
)


@dataclass(frozen=True)
class Row:
    """One figure; verdict: PASS, FAIL, or INFO if nothing is required."""

    part: str
    figure: str
    seen: str
    expected: str
    verdict: str


@dataclass
class Report:
    """The table; each row is printed when it is added."""

    sizes: Sizes
    part: str = ""
    rows: list[Row] = field(default_factory=list)

    def inform(self, figure: str, seen: object, expected: str = "–") -> None:
        """Add a figure without a requirement."""
        self._add(figure, seen, expected, "INFO")

    def check(self, figure: str, seen: object, expected: str, *, holds: bool) -> None:
        """Add a result that must be right on every machine."""
        self._add(figure, seen, expected, "PASS" if holds else "FAIL")

    def require(self, figure: str, seen: object, expected: str, *, holds: bool) -> None:
        """Add a figure that a GPU must reach; on a CPU, it is only shown."""
        self._add(figure, seen, expected, ("PASS" if holds else "FAIL") if self.sizes.is_cuda else "INFO")

    def _add(self, figure: str, seen: object, expected: str, verdict: str) -> None:
        text = f"{seen:,.4g}" if isinstance(seen, float) and abs(seen) < 1000 else seen
        row = Row(
            self.part, figure, f"{text:,.0f}" if isinstance(text, float) else str(text), expected, verdict
        )
        self.rows.append(row)
        cells = (row.part, row.figure, row.seen, row.expected, row.verdict)
        print(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |", flush=True)
