"""Limit the cost of a JPEG by its header, and check that its body is complete.

A JPEG is decoded at a reduced DCT scale, so a large size in its header costs little by itself: 200 megapixels
become 3. Two costs are limited here: the memory for several scans, and the time for all of them.

libjpeg fills missing lines with grey, and reports nothing if an end marker closes the body. So without a
check, a photo whose header claims too many lines, or a truncated upload with an end marker, would be
predicted from grey pixels.
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

# Limit of the pixels in the header, in multiples of max_pixels. The largest sensors have 200 megapixels, and
# each pixel costs about 2 ns even if the body is empty.
HEADER_PIXELS = 6
# Limit of the pixels in all scans together, in multiples of max_pixels. Each scan covers the whole picture,
# even if it holds little data. Encoders write 10 scans, rarely 30.
SCANNED_PIXELS = 24
# Bytes per pixel that libjpeg keeps until the last scan: three full components, two bytes per sample.
COEFFICIENT_BYTES = 6

_MARKERS_ALONE = frozenset({0x01, *range(0xD0, 0xD8)})
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = 0xC2
_DC_TABLES, _RESTART, _SCAN, _END = 0xC4, 0xDD, 0xDA, 0xD9
_AFTER_SCAN = re.compile(rb"\xff(?![\x00\xff\xd0-\xd7])", re.DOTALL)
# libjpeg reads up to 8 bytes beyond the code that it decodes.
_READ_AHEAD = bytes(16)


class JpegFile(JpegImagePlugin.JpegImageFile):
    """A JPEG as Pillow reads it, without the resolution in its EXIF data.

    The resolution is not needed, and for damaged EXIF data Pillow would write a warning to stderr that does
    not name the photo. If a file holds several pictures (MPO files of phones), the first one is read.
    """

    def _read_dpi_from_exif(self) -> None:
        pass


@dataclass(frozen=True)
class Frame:
    """The frame header. components: the sampling (horizontal, vertical) of each component."""

    marker: int
    width: int
    height: int
    components: dict[int, tuple[int, int]]

    @property
    def is_arithmetic(self) -> bool:
        """Whether the JPEG is arithmetic-coded."""
        return self.marker >= 0xC9

    def blocks_per_mcu(self, component: int) -> int:
        """Count a component's blocks in each unit of an interleaved scan."""
        horizontal, vertical = self.components[component]
        return horizontal * vertical

    def num_mcus(self) -> int:
        """Count the units of a scan of all components."""
        h_most, v_most = self._most()
        return math.ceil(self.width / (8 * h_most)) * math.ceil(self.height / (8 * v_most))

    def num_blocks(self, component: int) -> int:
        """Count the blocks of a scan of this component alone."""
        (h, v), (h_most, v_most) = self.components[component], self._most()
        width, height = math.ceil(self.width * h / h_most), math.ceil(self.height * v / v_most)
        return math.ceil(width / 8) * math.ceil(height / 8)

    def _most(self) -> tuple[int, int]:
        return max(h for h, _ in self.components.values()), max(v for _, v in self.components.values())


@dataclass(frozen=True)
class Scan:
    """A scan header. spectral: first and last coefficient, and bit positions. start: offset of its data."""

    components: tuple[tuple[int, int], ...]  # each component and the number of its DC table
    spectral: tuple[int, int, int]
    start: int


def check_header(data: bytes, image: Image.Image, max_pixels: int) -> None:
    """Check that this JPEG can be decoded at its present scale within the limits.

    Raises FormatError if it is arithmetic-coded, PhotoError if header and body do not match, TooLargeError.
    """
    frame, scan = _read_header(data)
    if frame is None or scan is None:
        raise PhotoError("cannot be decoded: the JPEG's header is incomplete")
    if frame.is_arithmetic:
        # Hardly any program writes or reads these. A damaged marker is more likely, and would give noise.
        raise FormatError(
            "not an image of a supported format: an arithmetic-coded JPEG; save it again as an ordinary JPEG"
        )
    if frame.marker != _PROGRESSIVE and scan.spectral not in {(0, 63, 0), (0, 0, 0)}:
        raise PhotoError("cannot be decoded: its header says that it is not progressive, but its body is")
    if image.width * image.height > max_pixels:
        raise TooLargeError(f"{frame.width} × {frame.height} is more than {max_pixels} pixels")
    pixels = frame.width * frame.height
    if pixels > HEADER_PIXELS * max_pixels:
        raise TooLargeError(
            f"{frame.width} × {frame.height} is more than {HEADER_PIXELS * max_pixels} pixels, "
            "the limit for JPEGs"
        )
    if _is_whole(frame, scan):
        return
    blocks = sum(frame.blocks_per_mcu(name) for name in frame.components) * frame.num_mcus()
    num_bytes = blocks * 64 * 2
    if num_bytes > COEFFICIENT_BYTES * max_pixels:
        raise TooLargeError(
            f"{frame.width} × {frame.height} in several scans needs {num_bytes} bytes to decode, more than "
            f"{COEFFICIENT_BYTES * max_pixels}; save it as a JPEG that is not progressive"
        )
    num_scans = data.count(b"\xff\xda", scan.start) + 1
    if num_scans * pixels > SCANNED_PIXELS * max_pixels:
        raise TooLargeError(f"{frame.width} × {frame.height} in {num_scans} scans takes too long to decode")


def check_body(data: bytes, image: Image.Image) -> None:
    """Check that a loaded JPEG had data for all of its lines.

    Usually this reads one pixel. The body is checked only if the last pixel has the grey that libjpeg fills
    in, so a complete photo that ends in this grey is accepted. Raises PhotoError if the photo is truncated.
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
        return  # one scan per component; no encoder in use writes this
    if not is_complete:
        raise PhotoError(
            f"cannot be decoded: image file is truncated: its data end before the last of the "
            f"{frame.height} lines that its header claims"
        )


def _is_whole(frame: Frame, scan: Scan) -> bool:
    """Tell whether one scan holds everything, so that libjpeg decodes it line by line."""
    return frame.marker != _PROGRESSIVE and len(scan.components) == len(frame.components)


def _is_scan_complete(data: bytes, scan: Scan) -> bool:
    """Decode without the marker that ends the scan: then libjpeg asks for more if the data is incomplete."""
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
    """Read the frame header and the first scan header."""
    frame = None
    for marker, start, end in _segments(data):
        if marker in _FRAMES:
            frame = _parse_frame(marker, data[start:end])
        elif marker == _SCAN and frame is not None:
            return frame, _parse_scan(data[start:end], end)
    return frame, None


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield each marker with the start and end of its content; the data of scans is skipped."""
    position = 2  # after the marker that begins every JPEG
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
    """Tell whether the first DC scans of a progressive JPEG hold all blocks.

    Such a scan holds only a code and its bits for each block, so the blocks are counted without decoding.
    """
    tables: dict[int, list[int]] = {}
    interval = 0
    for marker, start, end in _segments(data):
        if marker == _DC_TABLES:
            tables |= _parse_dc_tables(data[start:end])
        elif marker == _RESTART:
            interval = int.from_bytes(data[start : start + 2], "big")
        elif marker == _SCAN:
            scan = _parse_scan(data[start:end], end)
            if scan is None or scan.spectral[0] or scan.spectral[2] >> 4:
                continue  # a scan of finer detail
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
    """Tell whether a scan's data holds the codes of num_units units; the last unit may lack padding."""
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
    """Return for each DC table the number of bits of a block, by the first 16 bits of its code."""
    tables = {}
    position = 0
    while position + 17 <= len(content):
        name = content[position]
        counts = content[position + 1 : position + 17]
        symbols = content[position + 17 : position + 17 + sum(counts)]
        position += 17 + sum(counts)
        if name >> 4:  # a table of AC coefficients
            continue
        lengths: list[int] = []
        values = iter(symbols)
        for length, count in enumerate(counts, start=1):
            for value in itertools.islice(values, count):
                lengths += [length + value] * (1 << (16 - length))
        tables[name] = (lengths + [16] * 65536)[:65536]
    return tables
