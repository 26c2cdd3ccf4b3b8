"""A prediction → a PNG for people: the photo, where the network looked in it, and its probability bars."""

from typing import TYPE_CHECKING

from physiq_ray.drawing import ACCENT, PLAIN_TEXT, QUIET, to_png
from physiq_ray.images import decode_image
from physiq_ray.prediction.explanation import COLOURS, Explanation, paint
from physiq_ray.prediction.single import Prediction
from physiq_ray.storage import write_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FIGURE_PX = 640  # of the photo's shorter side in the figure


def write_figure(
    prediction: Prediction, data: bytes, uri: str, explanation: Explanation | None = None
) -> None:
    """Write a PNG: the photo next to its probability bars, with the pose above.

    explanation: is drawn on a second copy of the photo, between the two.
    Raises PhotoError, StorageError.
    """
    from matplotlib.figure import Figure  # the import takes half a second

    image = decode_image(data, min_side_px=FIGURE_PX)
    likeliest = prediction.likeliest
    title = f"{likeliest.name} · {likeliest.probability:.1%}"
    if prediction.pose is None:
        title = f"No known pose · likeliest: {title}"
    num_photos = 1 if explanation is None else 2
    figure = Figure(figsize=(10 if explanation is None else 14.5, 5.6), layout="constrained")
    figure.suptitle(title, fontsize=16, fontweight="bold", **PLAIN_TEXT)
    *photo_axes, bar_axes = figure.subplots(1, num_photos + 1, width_ratios=(*[1] * num_photos, 1.2))
    photo_axes[0].imshow(image)
    photo_axes[0].set_axis_off()
    name = f"{prediction.uri.rpartition('/')[2]}\n{prediction.width} × {prediction.height} px"
    photo_axes[0].set_title(name, fontsize=9, **PLAIN_TEXT)
    if explanation is not None:
        photo_axes[1].imshow(paint(image, explanation))
        photo_axes[1].set_axis_off()
        rows, columns = explanation.cells.shape
        title = f"where the network looked\nin {columns} × {rows} places"
        photo_axes[1].set_title(title, fontsize=9, **PLAIN_TEXT)
        _draw_scale(photo_axes[1])
    names = [f"{item.name} ({item.pose_id})" for item in prediction.probabilities]
    shares = [item.probability for item in prediction.probabilities]
    colors = [ACCENT if prediction.pose is not None else QUIET] + [QUIET] * (len(names) - 1)
    bars = bar_axes.barh(range(len(names)), shares, color=colors)
    bar_axes.bar_label(bars, labels=[f"{share:.1%}" for share in shares], padding=4, fontsize=9)
    bar_axes.set_yticks(range(len(names)), names, **PLAIN_TEXT)
    bar_axes.invert_yaxis()
    bar_axes.set_xlim(0, 1.12)
    bar_axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0 %", "25 %", "50 %", "75 %", "100 %"])
    bar_axes.set_xlabel("probability")
    bar_axes.spines[["top", "right"]].set_visible(False)
    write_bytes(to_png(figure), uri)


def _draw_scale(axes: "Axes") -> None:
    """Draw the scale of the colours inside a painted photo's axes, below the photo."""
    from matplotlib.cm import ScalarMappable

    scale = axes.inset_axes((0.1, -0.05, 0.8, 0.02))
    axes.figure.colorbar(ScalarMappable(cmap=COLOURS), cax=scale, orientation="horizontal")
    scale.set_xticks([0, 1], ["not at all", "most"], fontsize=8)
    scale.tick_params(length=0)
