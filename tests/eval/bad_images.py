"""Image files of every awkward kind, made here; each function writes one and returns its path."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

PIXELS = np.random.default_rng(5).integers(0, 256, (6, 9, 3), dtype=np.uint8)
DEEP = np.random.default_rng(6).integers(0, 65536, (6, 9), dtype=np.uint16)


def save(path: Path, image: Image.Image, **options) -> Path:
    image.save(path, **options)
    return path


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def good(folder: Path, name: str = "good.png", seed: int = 5, size: tuple[int, int] = (6, 9)) -> Path:
    """A plain image; unlike seeds give unlike images."""
    folder.mkdir(parents=True, exist_ok=True)
    return save(
        folder / name, Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8))
    )


def truncated(folder: Path, kind: str = "png") -> Path:
    data = encoded(Image.fromarray(np.tile(PIXELS, (8, 8, 1))), kind)
    path = folder / f"truncated.{kind}"
    path.write_bytes(data[: len(data) * 6 // 10])
    return path


def empty(folder: Path) -> Path:
    (folder / "empty.png").touch()
    return folder / "empty.png"


def text(folder: Path) -> Path:
    (folder / "text.jpg").write_text("<html>404 Not Found</html>")
    return folder / "text.jpg"


def png(width: int, height: int, depth: int, colour: int, rows: bytes, *chunks: bytes) -> bytes:
    """A PNG written by hand: PIL writes no 16-bit colour; `rows` are unfiltered, `chunks` stand before the pixels."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    body = b"".join(chunks) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + body


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def deep_rows(values: np.ndarray) -> bytes:
    """Rows of 16-bit samples as PNG wants them."""
    return b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)


def rgb16(folder: Path) -> Path:
    path = folder / "rgb16.png"
    path.write_bytes(png(9, 6, 16, 2, deep_rows(np.stack([DEEP, DEEP[::-1], DEEP[:, ::-1]], axis=2))))
    return path


def grey16_with_clear_colour(folder: Path) -> Path:
    clear = chunk(b"tRNS", struct.pack(">H", DEEP[0, 0]))
    path = folder / "grey16_clear.png"
    path.write_bytes(png(9, 6, 16, 0, deep_rows(DEEP), clear))
    return path


def huge(folder: Path) -> Path:
    """A header of 60000 x 60000 pixels in a file of a few bytes."""
    path = folder / "huge.png"
    path.write_bytes(png(60000, 60000, 8, 2, b"\0" * 100))
    return path


def animated(folder: Path) -> Path:
    frames = [Image.new("RGB", (9, 6), colour) for colour in ("red", "lime", "blue")]
    return save(folder / "animated.gif", frames[0], save_all=True, append_images=frames[1:])


def rotated(folder: Path) -> Path:
    exif = Image.Exif()
    exif[0x0112] = 6
    return save(folder / "rotated.png", Image.fromarray(PIXELS), exif=exif)


def every_kind(folder: Path) -> tuple[list[Path], list[Path]]:
    """A folder of all of them: those that can be read, and those that cannot."""
    folder.mkdir(parents=True, exist_ok=True)
    colours = Image.fromarray(PIXELS)
    readable = [
        good(folder),
        good(folder, "pixel.png", size=(1, 1)),
        rgb16(folder),
        grey16_with_clear_colour(folder),
        animated(folder),
        rotated(folder),
        save(folder / "grey16.tif", Image.fromarray(DEEP)),
        save(folder / "cmyk.jpg", colours.convert("CMYK")),
        save(folder / "palette.gif", colours.convert("P")),
        save(folder / "alpha.webp", Image.new("RGBA", (9, 6), (9, 9, 9, 99))),
        save(folder / "grey.ppm", colours.convert("L")),
        save(folder / "bits.bmp", colours.convert("1")),
    ]
    floats = save(folder / "floats.tif", Image.fromarray(DEEP.astype(np.float32)))
    return readable, [truncated(folder), truncated(folder, "jpeg"), empty(folder), text(folder), huge(folder), floats]
