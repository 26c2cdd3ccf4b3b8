"""What a JPEG's own header promises, and whether its body holds that.

A JPEG is decoded at a reduced DCT scale, so what its header says of its size costs little by itself: 200
megapixels become 3. Two costs are judged here: the memory of several scans, and the work of all of them.

libjpeg fills what is missing with grey and keeps quiet where an end marker closes the body, so a header that
claims more lines than there are, or an upload that broke off and was closed, would be judged by its grey.
"""

import io
import itertools
import math
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from PIL import Image, JpegImagePlugin

from physiq_ray.errors import FormatError, PhotoError, TooLargeError

# Times as many pixels as are decoded at most. In the header: the largest sensors have 200 megapixels, and
# each pixel costs 2 ns or so even in an empty body.
HEADER_PIXELS = 6
# In all scans together, each of which passes over all of the picture, however little it holds. Encoders write
# 10 scans, rarely 30.
SCANNED_PIXELS = 24
# Bytes a pixel: what libjpeg keeps of three full components until the last scan is in, two bytes a sample.
COEFFICIENT_BYTES = 6

_MARKERS_ALONE = frozenset({0x01, *range(0xD0, 0xD8)})
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = 0xC2
_DC_TABLES, _RESTART, _SCAN, _END = 0xC4, 0xDD, 0xDA, 0xD9
_AFTER_SCAN = re.compile(rb"\xff(?![\x00\xff\xd0-\xd7])", re.DOTALL)
# libjpeg reads up to 8 bytes ahead of the code that it decodes.
_READ_AHEAD = bytes(16)


class JpegFile(JpegImagePlugin.JpegImageFile):
    """A JPEG as Pillow reads it, but for the resolution in its EXIF data.

    Nothing here asks for that, and damaged EXIF data would be warned of on stderr, without the photo's name.
    Of several pictures in one file (MPO, as phones write) the first counts.
    """

    def _read_dpi_from_exif(self) -> None:
        pass


@dataclass(frozen=True)
class Frame:
    """What the header says. samples: each component's sampling (horizontal, vertical)."""

    marker: int
    width: int
    height: int
    components: dict[int, tuple[int, int]]

    @property
    def is_arithmetic(self) -> bool:
        """Whether it is arithmetic-coded."""
        return self.marker >= 0xC9

    def blocks_per_mcu(self, component: int) -> int:
        """Give a component's blocks in each unit of an interleaved scan."""
        horizontal, vertical = self.components[component]
        return horizontal * vertical

    def num_mcus(self) -> int:
        """Give the units of a scan of all components."""
        h_most, v_most = self._most()
        return math.ceil(self.width / (8 * h_most)) * math.ceil(self.height / (8 * v_most))

    def num_blocks(self, component: int) -> int:
        """Give the blocks of a scan of this component alone."""
        (h, v), (h_most, v_most) = self.components[component], self._most()
        width, height = math.ceil(self.width * h / h_most), math.ceil(self.height * v / v_most)
        return math.ceil(width / 8) * math.ceil(height / 8)

    def _most(self) -> tuple[int, int]:
        return max(h for h, _ in self.components.values()), max(v for _, v in self.components.values())


@dataclass(frozen=True)
class Scan:
    """One scan's header. spectral: first and last coefficient, and the bits' places; start: of its data."""

    components: tuple[tuple[int, int], ...]  # and the number of the DC table of each
    spectral: tuple[int, int, int]
    start: int


def check_header(data: bytes, image: Image.Image, max_pixels: int) -> None:
    """Make sure that this JPEG can be decoded at its present scale within bounds.

    Raises FormatError: arithmetic-coded. PhotoError: the header is not that of the body. TooLargeError.
    """
    frame, scan = _read_header(data)
    if frame is None or scan is None:
        raise PhotoError("cannot be decoded: the JPEG's header breaks off")
    if frame.is_arithmetic:
        # Hardly any program writes or reads these: far likelier it is a damaged marker, and its answer noise.
        raise FormatError(
            "not an image of a supported format: an arithmetic-coded JPEG; save it again as an ordinary JPEG"
        )
    if frame.marker != _PROGRESSIVE and scan.spectral not in {(0, 63, 0), (0, 0, 0)}:
        raise PhotoError("cannot be decoded: its header says that it is no progressive JPEG, its body is one")
    if image.width * image.height > max_pixels:
        raise TooLargeError(f"{frame.width} × {frame.height} is more than {max_pixels} pixels")
    pixels = frame.width * frame.height
    if pixels > HEADER_PIXELS * max_pixels:
        raise TooLargeError(
            f"{frame.width} × {frame.height} is more than {HEADER_PIXELS * max_pixels} pixels, "
            "also for a JPEG"
        )
    if _is_whole(frame, scan):
        return
    blocks = sum(frame.blocks_per_mcu(name) for name in frame.components) * frame.num_mcus()
    num_bytes = blocks * 64 * 2
    if num_bytes > COEFFICIENT_BYTES * max_pixels:
        raise TooLargeError(
            f"{frame.width} × {frame.height} in several scans takes {num_bytes} bytes to decode, at most "
            f"{COEFFICIENT_BYTES * max_pixels} are given; save it as a JPEG that is not progressive"
        )
    num_scans = data.count(b"\xff\xda", scan.start) + 1
    if num_scans * pixels > SCANNED_PIXELS * max_pixels:
        raise TooLargeError(f"{frame.width} × {frame.height} in {num_scans} scans takes too long to decode")


def check_body(data: bytes, image: Image.Image) -> None:
    """Make sure that a loaded JPEG had data for all of its lines.

    Costs one pixel: only where the last one has the grey that libjpeg fills in is the body looked at, so a
    photo that ends in such a grey is never refused for it. Raises PhotoError: it is truncated.
    """
    corner = image.getpixel((image.width - 1, image.height - 1))
    levels = corner if isinstance(corner, tuple) else (corner,)
    if any(level not in (127, 128) for level in levels):
        return
    frame, scan = _read_header(data)
    if frame is None or scan is None:
        return
    if _is_whole(frame, scan):
        is_complete = _is_scan_complete(data, scan)
    elif frame.marker == _PROGRESSIVE:
        is_complete = _count_dc_blocks(data, frame)
    else:
        return  # each component by itself: no encoder in use writes this
    if not is_complete:
        raise PhotoError(
            f"cannot be decoded: image file is truncated: its data end before the last of the "
            f"{frame.height} lines that its header claims"
        )


def _is_whole(frame: Frame, scan: Scan) -> bool:
    """Tell whether one scan holds everything, so that libjpeg decodes it line by line."""
    return frame.marker != _PROGRESSIVE and len(scan.components) == len(frame.components)


def _is_scan_complete(data: bytes, scan: Scan) -> bool:
    """Decode without the marker that ends the scan: then libjpeg waits for more where the data do not do."""
    after = _AFTER_SCAN.search(data, scan.start)
    end = after.start() if after else len(data)
    with JpegFile(io.BytesIO(data[:end] + _READ_AHEAD)) as image:
        image.draft(None, (1, 1))
        try:
            image.load()
        except OSError:  # Pillow's "image file is truncated"
            return False
    return True


def _read_header(data: bytes) -> tuple[Frame | None, Scan | None]:
    """Give the frame and the first scan."""
    frame = None
    for marker, start, end in _segments(data, 2):
        if marker in _FRAMES:
            frame = _parse_frame(marker, data[start:end])
        elif marker == _SCAN and frame is not None:
            return frame, _parse_scan(data[start:end], end)
    return frame, None


def _segments(data: bytes, position: int) -> Iterator[tuple[int, int, int]]:
    """Give each marker from here on with where its content starts and ends; scans' data are passed over."""
    while True:
        position = data.find(b"\xff", position)
        if position < 0 or position + 1 >= len(data):
            return
        marker = data[position + 1]
        if marker in {0x00, 0xFF} or marker in _MARKERS_ALONE:
            position += 1 if marker == 0xFF else 2
            continue
        if marker == _END or position + 4 > len(data):
            return
        end = position + 2 + int.from_bytes(data[position + 2 : position + 4], "big")
        yield marker, position + 4, end
        position = end
        if marker == _SCAN:
            after = _AFTER_SCAN.search(data, end)
            position = after.start() if after else len(data)


def _parse_frame(marker: int, content: bytes) -> Frame | None:
    try:
        _, height, width, num_components = struct.unpack_from(">BHHB", content)
        components = {}
        for number in range(num_components):
            name, sampling, _ = struct.unpack_from(">BBB", content, 6 + 3 * number)
            components[name] = (sampling >> 4, sampling & 15)
    except struct.error:
        return None
    is_sound = width and height and components and all(h and v for h, v in components.values())
    return Frame(marker, width, height, components) if is_sound else None


def _parse_scan(content: bytes, start: int) -> Scan | None:
    num_components = content[0] if content else 0
    if len(content) < 4 + 2 * num_components or not num_components:
        return None
    pairs = tuple((content[1 + 2 * i], content[2 + 2 * i] >> 4) for i in range(num_components))
    first, last, bits = content[1 + 2 * num_components : 4 + 2 * num_components]
    return Scan(pairs, (first, last, bits), start)


def _count_dc_blocks(data: bytes, frame: Frame) -> bool:
    """Tell whether the scans with each block's first brightness, of a progressive JPEG, hold all blocks.

    Such a scan is nothing but a code and so many bits for each block, so no picture is needed to count.
    """
    tables: dict[int, list[int]] = {}
    interval = 0
    for marker, start, end in _segments(data, 2):
        if marker == _DC_TABLES:
            tables |= _parse_dc_tables(data[start:end])
        elif marker == _RESTART:
            interval = int.from_bytes(data[start : start + 2], "big")
        elif marker == _SCAN:
            scan = _parse_scan(data[start:end], end)
            if scan is None or scan.spectral[0] or scan.spectral[2] >> 4:
                continue  # of finer detail
            if any(name not in frame.components or table not in tables for name, table in scan.components):
                return True  # libjpeg refuses these itself
            if len(scan.components) == 1:
                name, table = scan.components[0]
                unit, num_units = [tables[table]], frame.num_blocks(name)
            else:
                unit = [tables[t] for name, t in scan.components for _ in range(frame.blocks_per_mcu(name))]
                num_units = frame.num_mcus()
            after = _AFTER_SCAN.search(data, end)
            body = data[end : after.start() if after else len(data)]
            if not _holds(body, unit, num_units, interval):
                return False
    return True


def _holds(body: bytes, unit: list[list[int]], num_units: int, interval: int) -> bool:
    """Tell whether a scan's data hold the codes of so many units; the last one may be short of padding."""
    num_found = 0
    for part in re.split(rb"\xff[\xd0-\xd7]", body):
        bits = part.replace(b"\xff\x00", b"\xff") + _READ_AHEAD
        num_bits = 8 * (len(bits) - len(_READ_AHEAD))
        position, blocks = 0, 0
        wanted = (min(interval, num_units) if interval else num_units) * len(unit)
        for lengths in itertools.islice(itertools.cycle(unit), wanted):
            at = position >> 3
            window = (bits[at] << 16 | bits[at + 1] << 8 | bits[at + 2]) >> (8 - (position & 7)) & 0xFFFF
            position += lengths[window]
            if position > num_bits:
                break
            blocks += 1
        num_found += blocks
    return num_found >= (num_units - 1) * len(unit)


def _parse_dc_tables(content: bytes) -> dict[int, list[int]]:
    """Give for each DC table how many bits a block takes, by the 16 bits that its code begins with."""
    tables = {}
    position = 0
    while position + 17 <= len(content):
        name = content[position]
        counts = content[position + 1 : position + 17]
        symbols = content[position + 17 : position + 17 + sum(counts)]
        position += 17 + sum(counts)
        if name >> 4:  # of AC coefficients
            continue
        lengths: list[int] = []
        values = iter(symbols)
        for length, count in enumerate(counts, start=1):
            for value in itertools.islice(values, count):
                lengths += [length + value] * (1 << (16 - length))
        tables[name] = (lengths + [16] * 65536)[:65536]
    return tables
