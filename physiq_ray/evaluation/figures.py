"""The figures of a report: learning curves, confusion matrix, reliability diagram, the worst mistakes.

Each function returns the bytes of a PNG.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from physiq_ray.drawing import ACCENT, DARK, PLAIN_TEXT, QUIET, to_png
from physiq_ray.errors import PhotoError, StorageError
from physiq_ray.evaluation.calibration import NUM_BINS, reliability
from physiq_ray.evaluation.scores import Answers, Mistake, Report
from physiq_ray.floor import Floor
from physiq_ray.images import UInt8Array, decode_square
from physiq_ray.prediction.explanation import Explanation, paint

DPI = 120
TILE_PX, TILES_A_ROW = 224, 4
PAIRS_A_ROW, GAP_PX = 3, 6  # of a photo and where the network looked in it


def draw_curves(history: Sequence[Mapping[str, Any]], best_epoch: int) -> bytes:
    """Draw the loss and the accuracy of training and validation by epoch, and mark the best epoch."""
    figure = Figure(figsize=(10, 4), layout="constrained", dpi=DPI)
    epochs = [epoch["epoch"] for epoch in history]
    for axes, measure in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        for split, colour in (("train", QUIET), ("validation", ACCENT)):
            values = [epoch[f"{split}_{measure}"] for epoch in history]
            axes.plot(epochs, values, color=colour, marker="o", markersize=3, label=split)
        axes.axvline(best_epoch, color=DARK, linewidth=1, linestyle=":", label=f"best: epoch {best_epoch}")
        axes.set_xlabel("epoch")
        axes.set_title(measure)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[1].set_ylim(0, 1.02)
    figure.axes[1].yaxis.set_major_formatter(PercentFormatter(1))
    return to_png(figure)


def draw_confusion(report: Report) -> bytes:
    """Draw the confusion matrix: the counts, coloured by their share of the row."""
    names = [pose.name for pose in report.poses]
    side = max(5.0, 1.6 + 0.62 * len(names))
    figure = Figure(figsize=(side + 3.2, side), layout="constrained", dpi=DPI)
    axes = figure.subplots()
    rows = report.confusion.sum(axis=1, keepdims=True)
    shares = report.confusion / np.maximum(rows, 1)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(report.confusion):
        if count:
            colour = "white" if shares[row, column] > 0.5 else DARK
            axes.text(column, row, str(count), ha="center", va="center", color=colour, fontsize=9)
    axes.set_xticks(range(len(names)), names, rotation=40, ha="right", rotation_mode="anchor", **PLAIN_TEXT)
    axes.set_yticks(
        range(len(names)),
        [f"{name} ({count})" for name, count in zip(names, rows[:, 0], strict=True)],
        **PLAIN_TEXT,
    )
    axes.set_xlabel("predicted")
    axes.set_ylabel("true (photos)")
    axes.set_title(f"{report.num_photos} photos, {report.accuracy:.1%} correct")
    bar = figure.colorbar(image, ax=axes, fraction=0.046, label="share of the true pose's photos")
    bar.ax.yaxis.set_major_formatter(PercentFormatter(1))
    return to_png(figure)


def draw_scores(report: Report) -> bytes:
    """Draw precision, recall and F1 of each pose with their 95 % intervals."""
    names = [f"{pose.name} ({pose.count})" for pose in report.poses]
    places = np.arange(len(names))
    size = (8, max(3.0, 1.2 + 0.5 * len(names)))
    figure = Figure(figsize=size, layout="constrained", dpi=DPI)
    axes = figure.subplots()
    for offset, kind, colour in ((-0.22, "precision", QUIET), (0, "recall", DARK), (0.22, "f1", ACCENT)):
        values = np.array([getattr(pose, kind) for pose in report.poses])
        low, high = np.array([getattr(pose, f"{kind}_interval") for pose in report.poses]).T
        axes.hlines(places + offset, low, high, color=colour, linewidth=2, alpha=0.6)
        axes.scatter(values, places + offset, color=colour, s=24, zorder=3, label=kind.replace("f", "F"))
    axes.set_yticks(places, names, **PLAIN_TEXT)
    axes.invert_yaxis()
    axes.set_xlim(-0.02, 1.02)
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.grid(axis="x", color="#e6ebf0")
    axes.set_axisbelow(True)
    axes.set_title(
        f"{report.num_photos} photos: accuracy {report.accuracy:.1%} ({report.accuracy_interval}), "
        "lines are 95 % intervals",
        fontsize=10,
    )
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    axes.spines[["top", "right", "left"]].set_visible(False)
    return to_png(figure)


def draw_reliability(answers: Answers, report: Report) -> bytes:
    """Draw accuracy against confidence, without and with the temperature, and the photos of each bin."""
    figure = Figure(figsize=(10, 5), layout="constrained", dpi=DPI)
    grid = figure.subplots(2, 2, height_ratios=(3, 1), sharex=True)
    edges = np.linspace(0, 1, NUM_BINS + 1)
    for column, (title, temperature, error) in enumerate(
        (
            ("as trained", 1.0, report.error_before),
            (f"temperature {report.temperature:.2f}", report.temperature, report.error_after),
        )
    ):
        bins = reliability(answers.logits, answers.labels, temperature)
        used = bins.counts > 0
        upper, lower = grid[0, column], grid[1, column]
        upper.plot([0, 1], [0, 1], color=DARK, linewidth=1, linestyle=":")
        upper.vlines(bins.confidence[used], bins.confidence[used], bins.accuracy[used], color=QUIET)
        upper.scatter(bins.confidence[used], bins.accuracy[used], color=ACCENT, s=30, zorder=3)
        upper.set_title(f"{title}: calibration error {error:.3f}")
        upper.set_ylim(-0.03, 1.03)
        upper.set_ylabel("accuracy")
        upper.yaxis.set_major_formatter(PercentFormatter(1))
        counts = bins.counts[:-1].copy()
        counts[-1] += bins.counts[-1]  # the bin of exactly 1 has no width
        lower.bar(edges[:-1], counts, width=1 / NUM_BINS, align="edge", color=QUIET, edgecolor="white")
        lower.set_ylabel("photos")
        lower.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=3))
        lower.set_xlabel("confidence")
        lower.set_xlim(0, 1)
        lower.xaxis.set_major_formatter(PercentFormatter(1))
        for axes in (upper, lower):
            axes.spines[["top", "right"]].set_visible(False)
    return to_png(figure)


def draw_coverage(floor: Floor) -> bytes:
    """Draw the precision of the answers against the share of photos that are answered, and the chosen point.

    floor: one with a choice.
    """
    choice = floor.choice
    if choice is None:
        raise ValueError("a floor that a person set has no curve")
    figure = Figure(figsize=(6, 4.5), layout="constrained", dpi=DPI)
    axes = figure.subplots()
    _, precision, coverage = np.array(choice.curve).T
    axes.step(coverage, precision, where="pre", color=QUIET)
    axes.axhline(
        choice.target_precision,
        color=DARK,
        linewidth=1,
        linestyle=":",
        label=f"wished: {choice.target_precision:.0%}",
    )
    label = f"{floor.score} ≥ {floor.threshold:.3g}: {choice.precision:.1%} at {choice.coverage:.1%}"
    axes.scatter([choice.coverage], [choice.precision], color=ACCENT, s=40, zorder=3, label=label)
    axes.set_xlim(0, 1.02)
    axes.set_ylim(max(0.0, precision.min() - 0.05), 1.02)
    axes.set_xlabel("answered photos of known poses")
    axes.set_ylabel("precision of the answers")
    axes.set_title(f"{choice.num_photos} photos of poses, {choice.num_null} of no known pose", fontsize=10)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1))
    axes.legend(frameon=False, loc="lower left")
    axes.spines[["top", "right"]].set_visible(False)
    return to_png(figure)


def draw_mistakes(
    mistakes: Sequence[Mistake],
    read: Callable[[str], bytes],
    explain: Callable[[bytes, int], Explanation] | None = None,
) -> bytes:
    """Draw wrongly predicted photos with their true and their predicted poses; at least one photo.

    read: returns the bytes of a photo. explain: returns where the network looked for a pose in such bytes,
    which is drawn next to the photo for the predicted pose. The place of an unreadable photo stays empty.
    """
    columns = min(TILES_A_ROW if explain is None else PAIRS_A_ROW, len(mistakes))
    lines = -(-len(mistakes) // columns)
    width, height = (2.6, 3.1) if explain is None else (5.0, 3.3)
    figure = Figure(figsize=(width * columns, height * lines), layout="constrained", dpi=DPI)
    if explain is not None:
        figure.suptitle("photo | where the network looked for its answer", fontsize=10, color=DARK)
    for axes, mistake in zip(
        figure.subplots(lines, columns, squeeze=False).flat, [*mistakes, *[None] * columns], strict=False
    ):
        axes.set_axis_off()
        if mistake is None:
            continue
        try:
            tile = _draw_tile(read(mistake.uri), mistake.answer_id, explain)
            axes.imshow(tile)
        except (StorageError, PhotoError):
            tile = np.full((TILE_PX, TILE_PX, 3), 235, np.uint8)
            axes.imshow(tile)
            axes.text(TILE_PX / 2, TILE_PX / 2, "unreadable", ha="center", va="center", color=DARK)
        title = f"{mistake.truth}\n→ {mistake.answer} {mistake.confidence:.0%}"
        axes.set_title(title, fontsize=9, color=DARK, **PLAIN_TEXT)
        name = PurePosixPath(mistake.uri).name[-34:]
        axes.text(
            *(tile.shape[1] / 2, TILE_PX + 8, name),
            **{"ha": "center", "va": "top", "fontsize": 6, "color": DARK},
            **PLAIN_TEXT,
        )
    return to_png(figure)


def _draw_tile(
    data: bytes, answer_id: int, explain: Callable[[bytes, int], Explanation] | None
) -> UInt8Array:
    """Draw the photo, and next to it where the network looked, as uint8 (TILE_PX, W, 3)."""
    photo = decode_square(data, size_px=TILE_PX)
    if explain is None:
        return photo
    gap = np.full((TILE_PX, GAP_PX, 3), 255, np.uint8)
    return np.concatenate([photo, gap, paint(photo, explain(data, answer_id))], axis=1)
