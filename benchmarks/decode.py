"""Compare decoding with colour profiles and checks of the JPEG's body with the same steps in Pillow alone.

    python benchmarks/decode.py [--rounds 7]

Each photo is decoded without a profile, with the sRGB profile and with the Display P3 profile; the body is
the same in all three. Rates are images per second of processor time in one thread, so that other work on the
machine has little effect.
"""

import argparse
import io
import math
import statistics
import struct
import time
from collections.abc import Callable, Sequence

import numpy as np
from machine import describe_machine
from photos import make_phone_photo, make_thumbnail
from PIL import Image, ImageCms

from physiq_ray.images import decode_square

SIZE_PX = 224
P3_COLUMNS = {  # the primaries of Display P3 as XYZ, adapted to the white point D50
    b"rXYZ": (0.51512, 0.24120, -0.00105),
    b"gXYZ": (0.29198, 0.69225, 0.04189),
    b"bXYZ": (0.15710, 0.06657, 0.78407),
}


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7, help="rounds after the warm-up")
    options = parser.parse_args()
    print(describe_machine("pillow"), end="\n\n")
    print("| photo | side | img/s (median) | range | of Pillow |\n|---|---|---|---|---|")
    phones = [make_phone_photo(seed) for seed in range(4)]
    for name, photos, repeats in (
        ("phone", phones, 2),
        ("thumbnail", [make_thumbnail(p) for p in phones], 100),
    ):
        _measure(name, photos, repeats, options.rounds)


def _measure(name: str, photos: Sequence[bytes], repeats: int, rounds: int) -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    sides: dict[str, tuple[Callable[[bytes], object], Sequence[bytes]]] = {
        "Pillow alone, no profile": (_decode_by_pillow, photos),
        "ours, no profile": (_decode, photos),
        "ours, sRGB": (_decode, [_with_profile(photo, srgb) for photo in photos]),
        "ours, Display P3": (_decode, [_with_profile(photo, _to_p3(srgb)) for photo in photos]),
    }
    rates: dict[str, list[float]] = {side: [] for side in sides}
    for number in range(rounds + 1):
        for side, (decode, inputs) in sides.items():
            started_s = time.process_time()
            for _ in range(repeats):
                for data in inputs:
                    decode(data)
            if number:  # the first round is the warm-up
                rates[side].append(repeats * len(inputs) / (time.process_time() - started_s))
    bare = statistics.median(rates["Pillow alone, no profile"])
    for side, values in rates.items():
        median = statistics.median(values)
        spread = f"{min(values):.1f} to {max(values):.1f}"
        print(f"| {name} | {side} | {median:.1f} | {spread} | {median / bare:.2f} |")


def _decode(data: bytes) -> object:
    return decode_square(data, size_px=SIZE_PX)


def _decode_by_pillow(data: bytes) -> object:
    with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
        orientation = image.getexif().get(0x0112, 1)
        wanted = math.ceil(SIZE_PX * 1.5)
        image.draft(None, (wanted, wanted))
        rgb = image.convert("RGB").resize((SIZE_PX, SIZE_PX), Image.Resampling.BILINEAR, reducing_gap=3.0)
        return np.array(rgb.transpose(Image.Transpose.ROTATE_270) if orientation == 6 else rgb)


def _with_profile(photo: bytes, profile: bytes) -> bytes:
    content = b"ICC_PROFILE\0\1\1" + profile
    return photo[:2] + b"\xff\xe2" + struct.pack(">H", len(content) + 2) + content + photo[2:]


def _to_p3(srgb: bytes) -> bytes:
    """Give the sRGB profile with the primaries of Display P3; both have the same transfer curve."""
    profile = bytearray(srgb)
    (num_tags,) = struct.unpack_from(">L", profile, 128)
    for entry in range(132, 132 + 12 * num_tags, 12):
        name, start, _ = struct.unpack_from(">4sLL", profile, entry)
        if name in P3_COLUMNS:
            struct.pack_into(">3l", profile, start + 8, *(round(65536 * value) for value in P3_COLUMNS[name]))
    return bytes(profile)


if __name__ == "__main__":
    main()
