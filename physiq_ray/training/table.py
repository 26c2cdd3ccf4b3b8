"""The epoch table: a line for each epoch, and above it a bar with the running loss and accuracy."""

from collections.abc import Mapping
from typing import Any

from physiq_ray.progress import Display
from physiq_ray.training.events import BatchProgress, EpochDone, Event, Note, Stalled

_COLUMNS = (("Epoch", 7), ("Train Loss", 10), ("Train Acc", 9), ("Val Loss", 8), ("Val Acc", 8), ("Time", 8))


class EpochTable:
    """Show a run's events on a display."""

    def __init__(self, display: Display, epochs: int) -> None:
        """epochs: the most there can be."""
        self._display, self._epochs = display, epochs
        self._header_shown = False
        self._sums: dict[int, BatchProgress] = {}
        self._phase = (0, "")

    def handle(self, event: Event) -> None:
        """Show one event."""
        if isinstance(event, BatchProgress):
            self._show_batch(event)
        elif isinstance(event, EpochDone):
            self._show_row(event.metrics)
        elif isinstance(event, Note):
            self._display.note(event.text)
        elif isinstance(event, Stalled):
            self._display.note(
                f"worker {event.world_rank} has done nothing in epoch {event.epoch} for {event.seconds:g} s "
                "(stall_timeout_s) and is stopped"
            )
        else:
            last = event.history[-1]["epoch"] if event.history else 0
            self._header_shown = False
            photos = f" and {event.num_photos:,} photos of epoch {last + 1}" if event.num_photos else ""
            self._display.note(f"resumed after epoch {last}{photos}")
            for metrics in event.history:
                self._show_row(metrics)

    def _show_batch(self, event: BatchProgress) -> None:
        if (event.epoch, event.split) != self._phase:
            self._phase, self._sums = (event.epoch, event.split), {}
        self._sums[event.world_rank] = event
        photos = sum(part.num_photos for part in self._sums.values())
        loss = sum(part.loss_sum for part in self._sums.values()) / max(1, photos)
        accuracy = sum(part.num_correct for part in self._sums.values()) / max(1, photos)
        self._display.count(
            f"epoch {event.epoch}/{self._epochs} {event.split}",
            photos,
            event.total,
            f"loss {loss:.4f} acc {accuracy:6.2%}",
        )

    def _show_row(self, metrics: Mapping[str, Any]) -> None:
        if not self._header_shown:
            self._header_shown = True
            self._display.note("  ".join(name.rjust(width) for name, width in _COLUMNS) + "  Status")
        cells = (
            f"{metrics['epoch']}/{self._epochs}",
            f"{metrics['train_loss']:.4f}",
            f"{metrics['train_accuracy']:.2%}",
            f"{metrics['validation_loss']:.4f}",
            f"{metrics['validation_accuracy']:.2%}",
            f"{metrics['seconds']:.1f} s",
        )
        row = "  ".join(cell.rjust(width) for cell, (_, width) in zip(cells, _COLUMNS, strict=True))
        self._display.note(f"{row}  {metrics['status']}")
