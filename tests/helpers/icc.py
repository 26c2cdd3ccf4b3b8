"""Make ICC profiles from their definitions: the primaries in CIE xy, and a tone curve."""

import struct

import numpy as np
import numpy.typing as npt

Xy = tuple[float, float]

D50 = np.array([0.9642, 1.0, 0.8249])
D65_XY, D50_XY = (0.3127, 0.3290), (0.3457, 0.3585)
# The primaries and the gamma are those of each standard; gamma 0 stands for the curve of sRGB.
SPACES: dict[str, tuple[tuple[Xy, Xy, Xy], Xy, float]] = {
    "sRGB": (((0.64, 0.33), (0.30, 0.60), (0.15, 0.06)), D65_XY, 0),
    "Display P3": (((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)), D65_XY, 0),
    "Adobe RGB": (((0.64, 0.33), (0.21, 0.71), (0.15, 0.06)), D65_XY, 563 / 256),
    "ProPhoto": (((0.7347, 0.2653), (0.1596, 0.8404), (0.0366, 0.0001)), D50_XY, 1.8),
}
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])


def make_rgb_profile(space: str, *, version: int = 4) -> bytes:
    """Give a profile of a matrix and curves, in ICC version 2 or 4."""
    gamma = SPACES[space][2]
    columns = matrix_to_d50(space).T
    curve = _curve(gamma, version)
    tags = {
        b"wtpt": _xyz(D50),
        b"desc": _description(space, version),
        b"cprt": _text("public domain", version),
    }
    tags |= {name: _xyz(column) for name, column in zip((b"rXYZ", b"gXYZ", b"bXYZ"), columns, strict=True)}
    tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)
    return _assemble(b"RGB ", b"mntr", tags, version)


def make_grey_profile(gamma: float) -> bytes:
    """Give a grey profile, which has one curve."""
    tags = {b"wtpt": _xyz(D50), b"desc": _description("grey", 2), b"kTRC": _curve(gamma, 2)}
    return _assemble(b"GRAY", b"mntr", tags, 2)


def make_cmyk_profile(rgb: npt.NDArray[np.float64]) -> bytes:
    """Give a print profile.

    rgb: float (2, 2, 2, 2, 3), linear sRGB in 0 … 1, the colour of each mixture of the four inks.
    """
    xyz = rgb @ matrix_to_d50("sRGB").T / D50
    cube = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    lab = np.stack(
        [
            116 * cube[..., 1] - 16,
            500 * (cube[..., 0] - cube[..., 1]),
            200 * (cube[..., 1] - cube[..., 2]),
        ],
        axis=-1,
    )
    encoded = np.stack(  # Lab of version 2 in 16 bits: L 0 … 100 is 0 … 0xFF00; a and b are -128 … 127
        [lab[..., 0] * 652.8, (lab[..., 1] + 128) * 256, (lab[..., 2] + 128) * 256], axis=-1
    )
    table = np.clip(encoded.round(), 0, 65535).astype(">u2").tobytes()
    identity = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 65536)
    ramp = struct.pack(">2H", 0, 65535)
    lut = b"mft2" + bytes(4) + bytes([4, 3, 2, 0]) + identity + struct.pack(">2H", 2, 2)
    lut += ramp * 4 + table + ramp * 3
    return _assemble(
        b"CMYK", b"prtr", {b"wtpt": _xyz(D50), b"desc": _description("ink", 2), b"A2B0": lut}, 2, pcs=b"Lab "
    )


def encode_from_srgb(pixels: npt.NDArray[np.uint8], space: str) -> npt.NDArray[np.uint8]:
    """Convert sRGB pixels, uint8 (H, W, 3), to another colour space."""
    linear = matrix_to_d50("sRGB") @ srgb_to_linear(pixels / 255.0).reshape(-1, 3).T
    there = np.clip(np.linalg.inv(matrix_to_d50(space)) @ linear, 0, 1).T.reshape(pixels.shape)
    gamma = SPACES[space][2]
    encoded = there ** (1 / gamma) if gamma else linear_to_srgb(there)
    return (encoded * 255).round().astype(np.uint8)


def matrix_to_d50(space: str) -> npt.NDArray[np.float64]:
    """Give the matrix from linear RGB to XYZ for D50, with Bradford adaptation."""
    primaries, white_xy, _ = SPACES[space]
    columns = np.array([[x / y, 1.0, (1 - x - y) / y] for x, y in primaries]).T
    white = np.array([white_xy[0] / white_xy[1], 1.0, (1 - sum(white_xy)) / white_xy[1]])
    to_xyz = columns * np.linalg.solve(columns, white)
    scale = np.diag((_BRADFORD @ D50) / (_BRADFORD @ white))
    matrix: npt.NDArray[np.float64] = np.linalg.inv(_BRADFORD) @ scale @ _BRADFORD @ to_xyz
    return matrix


def srgb_to_linear(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Remove the curve of sRGB from values in 0 … 1."""
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def linear_to_srgb(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Apply the curve of sRGB to values in 0 … 1."""
    return np.where(values <= 0.0031308, values * 12.92, 1.055 * values ** (1 / 2.4) - 0.055)


def _assemble(
    space: bytes, kind: bytes, tags: dict[bytes, bytes], version: int, pcs: bytes = b"XYZ "
) -> bytes:
    directory, body = struct.pack(">L", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        directory += name + struct.pack(">LL", start + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    white = struct.pack(">3l", *(round(value * 65536) for value in D50))
    header = struct.pack(
        ">L4sL4s4s4s12s4s4sLLLQL12s4s44s",
        *(start + len(body), b"test", version << 24, kind, space, pcs, bytes(12), b"acsp", b"test"),
        *(0, 0, 0, 0, 0, white, b"test", bytes(44)),
    )
    return header + directory + body


def _xyz(values: npt.NDArray[np.float64]) -> bytes:
    return b"XYZ " + bytes(4) + struct.pack(">3l", *(round(float(value) * 65536) for value in values))


def _curve(gamma: float, version: int) -> bytes:
    if gamma:
        return b"curv" + bytes(4) + struct.pack(">LH", 1, round(gamma * 256))
    if version == 4:  # version 4 gives the curve of sRGB as a formula
        parameters = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
        fixed = (round(value * 65536) for value in parameters)
        return b"para" + bytes(4) + struct.pack(">HH5l", 3, 0, *fixed)
    table = (srgb_to_linear(np.linspace(0, 1, 1024)) * 65535).round().astype(">u2")
    return b"curv" + bytes(4) + struct.pack(">L", 1024) + table.tobytes()


def _description(text: str, version: int) -> bytes:
    if version == 4:
        return _text(text, 4)
    return b"desc" + bytes(4) + struct.pack(">L", len(text) + 1) + text.encode() + bytes(1 + 12 + 67)


def _text(text: str, version: int) -> bytes:
    if version != 4:
        return b"text" + bytes(4) + text.encode() + b"\0"
    encoded = text.encode("utf-16-be")
    return b"mluc" + bytes(4) + struct.pack(">LL4sLL", 1, 12, b"enUS", len(encoded), 28) + encoded
