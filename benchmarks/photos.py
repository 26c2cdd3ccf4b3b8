"""Photos for the benchmarks: generated JPEGs of 12 megapixels, as phones write, and thumbnails."""

import functools
import io
import threading
import time
from dataclasses import dataclass

import numpy as np
from PIL import Image

PHONE_SIZE, THUMBNAIL_SIZE = (4032, 3024), (200, 250)
# Waves per picture height and their strength: as in photographs, high frequencies are weaker.
OCTAVES = ((8, 60), (32, 35), (128, 18), (512, 9))
GRAIN = 5.5  # sensor noise, which gives the file the size of a phone's: 2.7 MB at quality 85


def make_phone_photo(seed: int) -> bytes:
    """Encode one baseline JPEG of 4032 × 3024 pixels with EXIF orientation 6, about 2.7 MB."""
    rng = np.random.default_rng(seed)
    width, height = PHONE_SIZE
    pixels = np.full((height, width, 3), 128, np.float32)
    for waves, strength in OCTAVES:
        coarse = rng.normal(0, strength, (3, waves + 2, waves * width // height + 2)).astype(np.float32)
        for channel in range(3):
            pixels[..., channel] += np.asarray(
                Image.fromarray(coarse[channel]).resize(PHONE_SIZE, Image.Resampling.BICUBIC)
            )
    pixels += rng.normal(0, GRAIN, (height, width, 1)).astype(np.float32)
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(file, "JPEG", quality=85, exif=exif)
    return file.getvalue()


def make_thumbnail(photo: bytes) -> bytes:
    """Shrink a photo to 200 × 250 pixels, about 8 KB."""
    with Image.open(io.BytesIO(photo)) as image:
        file = io.BytesIO()
        image.convert("RGB").resize(THUMBNAIL_SIZE).save(file, "JPEG", quality=50)
        return file.getvalue()


@dataclass(frozen=True)
class SlowPhotos:
    """A reader of tiny black photos: each takes cost_s, and a process reads num_at_once at the same time."""

    cost_s: float
    num_at_once: int

    def read(self, uri: str, etag: str) -> bytes:
        """Wait for a free place, then for the time that a photo takes."""
        with _places(self.num_at_once):
            time.sleep(self.cost_s)
        return _black_photo()


@functools.cache
def _places(num_at_once: int) -> threading.Semaphore:
    return threading.Semaphore(num_at_once)


@functools.cache
def _black_photo() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (16, 16)).save(file, "JPEG")
    return file.getvalue()
