"""What all figures share: colours, plain text, and the PNG or JPEG of a figure. No pyplot, no Ray.

A figure is drawn on a canvas of its own, without pyplot's global state and its choice of a screen. Matplotlib
is imported on use, because the import takes half a second.
"""

import io
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ACCENT, QUIET, DARK = "#d1495b", "#9fb4c7", "#33475b"
# For names from outside: matplotlib would parse text between two dollar signs as a formula, and fail.
PLAIN_TEXT: dict[str, Any] = {"parse_math": False}


def to_png(figure: "Figure") -> bytes:
    """Draw a figure and give its PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)  # type: ignore[no-untyped-call]
    return buffer.getvalue()


def to_jpeg(figure: "Figure") -> bytes:
    """Draw a figure and give its JPEG, which is several times smaller than a PNG if it shows photos."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_jpg(buffer, pil_kwargs={"quality": 85})  # type: ignore[no-untyped-call]
    return buffer.getvalue()
