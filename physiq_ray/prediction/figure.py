"""A prediction → a PNG for people: the photo next to its probability bars."""

from physiq_ray.drawing import ACCENT, PLAIN_TEXT, QUIET, to_png
from physiq_ray.images import decode_image
from physiq_ray.prediction.single import Prediction
from physiq_ray.storage import write_bytes

FIGURE_PX = 640  # of the photo's shorter side in the figure


def write_figure(prediction: Prediction, data: bytes, uri: str) -> None:
    """Write a PNG: the photo next to its probability bars, with the pose above.

    Raises PhotoError, StorageError.
    """
    from matplotlib.figure import Figure  # the import takes half a second

    image = decode_image(data, min_side_px=FIGURE_PX)
    likeliest = prediction.likeliest
    title = f"{likeliest.name} · {likeliest.probability:.1%}"
    if prediction.pose is None:
        title = f"No known pose · likeliest: {title}"
    figure = Figure(figsize=(10, 5.6), layout="constrained")
    figure.suptitle(title, fontsize=16, fontweight="bold", **PLAIN_TEXT)
    photo_axes, bar_axes = figure.subplots(1, 2, width_ratios=(1, 1.2))
    photo_axes.imshow(image)
    photo_axes.set_axis_off()
    name = f"{prediction.uri.rpartition('/')[2]}\n{prediction.width} × {prediction.height} px"
    photo_axes.set_title(name, fontsize=9, **PLAIN_TEXT)
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
