"""Draw the photos of a plan as pages of thumbnails, so that a person can look before they are removed.

A plan goes in; `sheet-0001.jpg`, … come out, with up to 48 photos of one source on each page. A tile shows
the decoded pixels, key, date and size, and the answer of a model if there is one.
One page is in memory at a time. While it is drawn, threads decode the photos of the next one.
"""

import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from physiq_ray.cleanse.plan import CleansePlan
from physiq_ray.constants import OUTAGE_RUN
from physiq_ray.drawing import DARK, PLAIN_TEXT, to_jpeg
from physiq_ray.errors import PhotoError, PhysiqError, SettingError, StorageError, UnreachableError
from physiq_ray.images import MAX_BYTES, UInt8Array, decode_image
from physiq_ray.storage import absolute_uri, read_bytes, write_bytes
from physiq_ray.threads import map_ahead

COLUMNS, ROWS = 8, 6
TILE_PX, GAP_PX, CAPTION_PX, TITLE_PX = 200, 16, 58, 48
DPI, FONT, FONT_PT, LINE_LETTERS = 100, "DejaVu Sans Mono", 7.5, 31  # so many letters are a tile's width
SHADE, GREY = 246, 225  # behind a photo, and in place of one
THREADS, MOST_BYTES = 16, 256 << 20  # bytes of the photos that are read ahead

Predict = Callable[[bytes, str], str]  # bytes and uri of a photo → a short answer


@dataclass(frozen=True)
class Sheet:
    """What was drawn: the numbers of pages and photos, and the photos with a grey tile as "uri: reason"."""

    pages: int
    photos: int
    unreadable: tuple[str, ...]


class _Tile(NamedTuple):
    """One photo of a page: pixels uint8 (H, W, 3) with sides of at most TILE_PX, or None and the reason."""

    uri: str
    caption: tuple[str, ...]
    pixels: UInt8Array | None
    problem: str = ""
    is_unreachable: bool = False


def check_sheet_folder(folder: str) -> None:
    """Refuse a folder that holds anything: older pages in it would mislead, and no file is ever replaced.

    Raises SettingError.
    """
    if folder.startswith("s3://"):
        raise SettingError(f"--sheet {folder}: give a folder on this machine")
    path = Path(absolute_uri(folder))
    if path.is_dir() and any(path.iterdir()):
        raise SettingError(f"--sheet {folder}: the folder is not empty; give a new one, or empty it")


def draw_sheet(
    plan: CleansePlan,
    folder: Path,
    *,
    predict: Predict | None = None,
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Sheet:
    """Draw all photos of a plan on pages in a folder. An unreadable photo gets a grey tile with its reason.

    on_progress: called with the photos done and in total.
    Raises StorageError: a page cannot be written, or S3 has not answered for OUTAGE_RUN photos in a row.
    """
    unreadable: list[str] = []
    num_pages = num_done = 0
    for bucket in plan.buckets:
        total = bucket.table.num_rows
        photos = (row for batch in bucket.table.to_batches(1000) for row in batch.to_pylist())
        ahead = map_ahead(
            lambda row: _make_tile(row, predict),
            photos,
            num_threads=THREADS,
            most_calls=COLUMNS * ROWS + THREADS,
            num_bytes=lambda row: int(row["size"]),
            most_bytes=MOST_BYTES,
        )
        with closing(ahead) as results:
            tiles = _stop_at_outage(results)
            first = 1
            while page := list(islice(tiles, COLUMNS * ROWS)):
                num_pages, num_done, last = num_pages + 1, num_done + len(page), first + len(page) - 1
                title = f"{bucket.source}   {first} to {last} of {total} photos that would be removed"
                write_bytes(_draw_page(title, page), str(folder / f"sheet-{num_pages:04d}.jpg"))
                unreadable += [f"{tile.uri}: {tile.problem}" for tile in page if tile.pixels is None]
                first = last + 1
                on_progress(num_done, plan.num_photos)
    return Sheet(num_pages, num_done, tuple(unreadable))


def _stop_at_outage(tiles: Iterator[_Tile]) -> Iterator[_Tile]:
    num_unreachable = 0
    for tile in tiles:
        num_unreachable = num_unreachable + 1 if tile.is_unreachable else 0
        if num_unreachable == OUTAGE_RUN:
            raise UnreachableError(f"no answer for {OUTAGE_RUN} photos in a row, the last {tile.problem}")
        yield tile


def _make_tile(row: Mapping[str, Any], predict: Predict | None) -> _Tile:
    """Fetch, decode and predict one listed photo, in a thread."""
    uri = row["uri"]
    caption = [*_break(row["key"]), f"{row['modified']:%Y-%m-%d}  {row['size'] / 1e3:.1f} kB"]
    try:
        data = read_bytes(uri, max_bytes=MAX_BYTES, etag=row["etag"])
        image = Image.fromarray(decode_image(data, min_side_px=TILE_PX))
    except (PhotoError, StorageError) as error:
        problem = str(error).removeprefix(f"read {uri}: ")
        return _Tile(uri, tuple(caption), None, problem, isinstance(error, UnreachableError))
    image.thumbnail((TILE_PX, TILE_PX))  # a panorama's longer side was larger
    if predict is not None:
        try:
            answer = predict(data, uri)
        except PhysiqError as error:
            answer = f"no answer: {str(error).removeprefix(f'{uri}: ')}"
        caption.append(_drawable(answer)[:LINE_LETTERS])
    return _Tile(uri, tuple(caption), np.asarray(image))


def _break(key: str) -> list[str]:
    """Break a key into at most two lines; a longer one loses its middle."""
    text = _drawable(key)
    if len(text) > 2 * LINE_LETTERS:
        text = f"{text[: LINE_LETTERS - 1]}…{text[-LINE_LETTERS:]}"
    return [text[:LINE_LETTERS], *filter(None, [text[LINE_LETTERS:]])]


def _drawable(text: str) -> str:
    """Escape letters that the font lacks or that nobody could see."""
    return "".join(
        letter if letter.isprintable() and ord(letter) in _font_letters() else ascii(letter)[1:-1]
        for letter in text
    )


@cache
def _font_letters() -> frozenset[int]:
    from matplotlib.font_manager import findfont, get_font

    return frozenset(get_font(findfont(FONT)).get_charmap())


def _draw_page(title: str, tiles: Sequence[_Tile]) -> bytes:
    """Draw one page and give its JPEG."""
    from matplotlib.figure import Figure  # the import takes half a second

    rows = -(-len(tiles) // COLUMNS)
    width = GAP_PX + COLUMNS * (TILE_PX + GAP_PX)
    height = TITLE_PX + rows * (TILE_PX + CAPTION_PX + GAP_PX)
    pixels = np.full((height, width, 3), 255, np.uint8)
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)

    def write(x: int, y: int, text: str, size_pt: float = FONT_PT) -> None:
        style = {"va": "top", "family": FONT, "fontsize": size_pt, "linespacing": 1.25, "color": DARK}
        figure.text(x / width, 1 - y / height, text, fontdict=style, **PLAIN_TEXT)

    write(GAP_PX, GAP_PX, _drawable(title), 10)
    for number, tile in enumerate(tiles):
        x = GAP_PX + number % COLUMNS * (TILE_PX + GAP_PX)
        y = TITLE_PX + number // COLUMNS * (TILE_PX + CAPTION_PX + GAP_PX)
        pixels[y : y + TILE_PX, x : x + TILE_PX] = SHADE if tile.pixels is not None else GREY
        if tile.pixels is None:
            reason = textwrap.wrap(_drawable(tile.problem), LINE_LETTERS - 3, max_lines=9, placeholder=" …")
            write(x + 8, y + 8, "\n".join(["unreadable", "", *reason]))
        else:
            tile_height, tile_width = tile.pixels.shape[:2]
            left, top = x + (TILE_PX - tile_width) // 2, y + (TILE_PX - tile_height) // 2
            pixels[top : top + tile_height, left : left + tile_width] = tile.pixels
        write(x, y + TILE_PX + 4, "\n".join(tile.caption))
    figure.figimage(pixels, origin="upper")
    return to_jpeg(figure)
