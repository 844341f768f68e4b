"""Image files of every usual kind as upright 8-bit RGB. Needs Pillow and NumPy alone.

Files are recognised by their content. Only the first frame of an animation or of a file with
several pages is read. Transparency is dropped, as OpenCV and COCO's tools do: the colours that
lie under it count. Colour profiles are not applied.
"""

from __future__ import annotations

import errno
import glob
import io
import os
import re
import stat
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from solo_edge.errors import DataError, ResourceError, SoloEdgeError, UsageError

__all__ = [
    "IMAGE_SUFFIXES",
    "MAX_PIXELS",
    "ImageHeader",
    "TooLargeError",
    "decode_image",
    "image_size",
    "list_images",
    "read_header",
    "read_image",
    "read_values",
    "unturned",
]

MAX_PIXELS = 100_000_000
IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".bmp", ".dib", ".gif", ".tif", ".tiff",
    ".webp", ".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".avif",
)  # fmt: skip
# Pillow's other readers are left out on purpose: some start programs (EPS runs Ghostscript), many
# recognise almost anything.
FORMATS = (
    "JPEG", "MPO", "PNG", "BMP", "DIB", "GIF", "TIFF", "WEBP", "PPM", "JPEG2000", "AVIF",
)  # fmt: skip
ORIENTATION = 274  # EXIF tag; 1 is upright, 5 to 8 swap width and height


class TooLargeError(DataError):
    """An image with too many pixels, refused by its header."""


@dataclass(frozen=True)
class ImageHeader:
    """What an image file says of itself before it is decoded."""

    size: tuple[int, int]  # (height, width) as displayed
    orientation: int  # EXIF: 1 is upright, 5 to 8 swap width and height
    mode: str  # Pillow's: "RGB", "L", "CMYK", "I;16", ...
    format: str  # Pillow's: "JPEG", "PNG", ...


def read_image(path: str | Path, *, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """An image file as [H, W, 3] uint8 RGB, turned upright by its EXIF orientation.

    Gray, palette, CMYK, YCbCr and transparent images are converted. 16-bit values are scaled from
    0..65535. 32-bit values (TIFF) are scaled from the narrowest of 0..1 (floating point only),
    0..255 and 0..65535 that holds them all, else from their own minimum and maximum.

    Args:
        max_pixels: larger images are refused by their header, before memory is taken for them.
            Pillow has a limit of its own, `PIL.Image.MAX_IMAGE_PIXELS` x 2, about 179 million.

    Raises:
        UsageError: there is no such file.
        DataError: the file is empty, damaged, too large or no image of a known kind.
        ResourceError: no permission to read it, or not enough memory.
    """
    path = Path(path)
    with _open(path, max_pixels) as image:
        return _pixels(image, path)


def decode_image(
    content: bytes, name: str | Path, *, max_pixels: int = MAX_PIXELS
) -> NDArray[np.uint8]:
    """As `read_image`, of an image file that is in memory; `name` stands for it in errors."""
    with _errors(Path(name)), _quiet_pillow():
        image = _identify(io.BytesIO(content), Path(name), empty=not content)
        _check_size(image, Path(name), max_pixels)
        return _pixels(image, Path(name))


def image_size(path: str | Path) -> tuple[int, int]:
    """(height, width) of the upright image, without decoding it; raises as `read_image`."""
    return read_header(path).size


def read_header(path: str | Path) -> ImageHeader:
    """What the file says of itself, without decoding it.

    Only a PNG whose metadata stand behind its pixels is decoded.

    Raises: as `read_image`.
    """
    path = Path(path)
    with _open(path, MAX_PIXELS) as image:
        width, height = image.size
        if isinstance(image, TiffImageFile):
            # Pillow's versions differ in whether `size` is already that of the upright image.
            width, height = image.tag_v2[256], image.tag_v2[257]
        if image.format == "PNG" and not _ends_with_pixels(path):
            image.load()
        orientation = _orientation(image)
        size = (width, height) if orientation >= 5 else (height, width)
        return ImageHeader(size, orientation, image.mode, image.format or "")


def read_values(path: str | Path) -> NDArray[np.int64]:
    """The stored numbers of an image of labels, one for each pixel, [H, W]; raises as `read_image`.

    Gray values and palette indices as they are; of a colour, red * 65536 + green * 256 + blue.
    Transparency is dropped, and no orientation applied.
    """
    path = Path(path)
    with _open(path, MAX_PIXELS) as image:
        if image.mode in ("LA", "La"):
            image = image.convert("L")
        elif image.mode not in ("1", "L", "P", "I", "RGB") and not image.mode.startswith("I;16"):
            image = image.convert("RGB")
        values = np.asarray(image).astype(np.int64)
        return values if values.ndim == 2 else values @ np.array([1 << 16, 1 << 8, 1])


def list_images(source: str | Path) -> list[Path]:
    """The image files that `source` names, in natural order (2 before 10).

    Args:
        source: a file (of any name), a folder (the files directly in it with a known suffix), or a
            glob pattern, in which `**` goes through folders. What exists is taken by its name,
            even if it looks like a pattern.

    Raises:
        UsageError: nothing is found.
    """
    path = Path(source)
    suffixes = ", ".join(IMAGE_SUFFIXES)
    if _is_folder(path):
        found = [p for p in _children(path) if _looks_like_image(p)]
        what, fix = "no images in this folder", f"known suffixes: {suffixes}"
    elif os.path.lexists(path):
        return [_existing_file(path)]
    elif glob.has_magic(str(source)):
        # pathlib's own takes no absolute pattern.
        matches = glob.glob(str(source), recursive=True)  # noqa: PTH207
        found = [p for p in map(Path, matches) if _looks_like_image(p)]
        what, fix = "no images match this pattern", f"known suffixes: {suffixes}"
    else:
        raise UsageError("no such file or folder", where=path, fix="check the path")
    if not found:
        raise UsageError(what, where=source, fix=fix)
    return sorted(found, key=_natural_order)


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # for example a name that is too long
        return False


def _children(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except PermissionError:
        fix = "change the permissions"
        raise ResourceError("no permission to list it", where=folder, fix=fix) from None


def _looks_like_image(path: Path) -> bool:
    # Hidden files are not somebody's images: macOS puts "._photo.jpg" beside "photo.jpg".
    hidden = path.name.startswith(".")
    return path.suffix.lower() in IMAGE_SUFFIXES and not hidden and not _is_folder(path)


def _natural_order(path: Path) -> tuple[list[tuple[int, int, str]], str]:
    parts = re.split(r"([0-9]+)", str(path).casefold())
    key = [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts if part]
    return key, str(path)


def _existing_file(path: Path) -> Path:
    """`path` if it leads to a regular file: a named pipe or a device would block or never end."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        if error.errno == errno.EACCES:
            fix = "change the permissions"
            raise ResourceError("no permission to read it", where=path, fix=fix) from None
        if error.errno in (errno.ENOENT, errno.ELOOP) and path.is_symlink():
            problem = "is a link to itself" if error.errno == errno.ELOOP else "is a dangling link"
            raise UsageError(problem, where=path, fix="restore the file it points to") from None
        raise UsageError("no such image file", where=path, fix="check the path") from None
    except ValueError:  # a NUL character
        raise UsageError("no such image file", where=repr(path), fix="check the path") from None
    if stat.S_ISDIR(mode):
        raise UsageError("is a folder, not an image", where=path, fix="name a file in it")
    if not stat.S_ISREG(mode):
        raise UsageError("is not a regular file", where=path, fix="name an image file")
    return path


@contextmanager
def _open(path: Path, max_pixels: int) -> Iterator[Image.Image]:
    """The opened, not yet decoded image; whatever goes wrong in the block is told as our errors."""
    _existing_file(path)
    with _errors(path), path.open("rb") as file, _quiet_pillow():
        image = _identify(file, path, empty=os.fstat(file.fileno()).st_size == 0)
        _check_size(image, path, max_pixels)
        yield image


@contextmanager
def _errors(path: Path) -> Iterator[None]:
    try:
        yield
    except SoloEdgeError:
        raise
    except PermissionError:
        fix = "change the permissions"
        raise ResourceError("no permission to read it", where=path, fix=fix) from None
    except MemoryError:
        fix = "make the image smaller"
        raise ResourceError("not enough memory for this image", where=path, fix=fix) from None
    except Image.DecompressionBombError:
        fix = "make the image smaller"
        raise TooLargeError("has far too many pixels", where=path, fix=fix) from None
    except Exception as error:
        # A damaged file can make Pillow's readers raise almost anything: OSError, SyntaxError,
        # struct.error, KeyError, OverflowError, zlib.error ...
        what = f"damaged image ({str(error) or type(error).__name__:.120})"
        raise DataError(what, where=path, fix=REPLACE) from error


REPLACE = "replace or remove it"


def _check_size(image: Image.Image, path: Path, max_pixels: int) -> None:
    width, height = image.size
    if width < 1 or height < 1:
        raise DataError(f"has a size of {width} x {height}", where=path, fix=REPLACE)
    if width * height > max_pixels:
        what = f"{width} x {height} pixels are more than {max_pixels / 1e6:g} million"
        raise TooLargeError(what, where=path, fix="make the image smaller")


def _pixels(image: Image.Image, path: Path) -> NDArray[np.uint8]:
    """The decoded image, upright."""
    image.load()
    # Pillow turns a TIFF upright when it loads it, and nothing else. Only after loading are the
    # EXIF data known that a PNG has at its end.
    orientation = 1 if isinstance(image, TiffImageFile) else _orientation(image)
    return _upright(_to_rgb(image, path), orientation)


def _identify(file: IO[bytes], path: Path, *, empty: bool) -> Image.Image:
    Image.init()
    known = [name for name in FORMATS if name in Image.OPEN]  # depends on how Pillow was built
    try:
        return Image.open(file, formats=known)
    except UnidentifiedImageError:
        what = "the file is empty" if empty else "not an image of a known kind"
        raise DataError(what, where=path, fix=REPLACE) from None


@contextmanager
def _quiet_pillow() -> Iterator[None]:
    """Without Pillow's warnings (large image, odd EXIF data): what matters becomes an error here."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
        yield


def _orientation(image: Image.Image) -> int:
    try:
        # The base class's method: that of PNG files decodes the image.
        value = Image.Image.getexif(image).get(ORIENTATION, 1)
    except Exception:  # damaged EXIF data do not make the picture unreadable
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _ends_with_pixels(png: Path) -> bool:
    """Whether nothing but the end mark follows the pixels (IDAT chunks) of a PNG file."""
    with png.open("rb") as file:
        file.seek(8)
        before = b""
        while len(head := file.read(8)) == 8:
            length, kind = struct.unpack(">I4s", head)
            if before == b"IDAT" and kind not in (b"IDAT", b"IEND"):
                return False
            before = kind
            file.seek(length + 4, os.SEEK_CUR)  # 4: the chunk's checksum
    return True


def _upright(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Undo the camera's orientation (EXIF 2.3, tag 274)."""
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def unturned(upright: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """The pixels [H, W, 3] as the file holds them, of an upright image of EXIF orientation 5 to 8."""
    if orientation in (7, 8):
        upright = upright[::-1]
    if orientation in (6, 7):
        upright = upright[:, ::-1]
    return np.ascontiguousarray(upright.transpose(1, 0, 2))


def _to_rgb(image: Image.Image, path: Path) -> NDArray[np.uint8]:
    mode = image.mode
    if mode.startswith("I;16"):
        table = _scaled(np.arange(65536, dtype=np.float32), 0, 65535)
        return _gray(table[np.asarray(image)])
    if mode == "I" and image.format != "TIFF":  # 16 bits in a wider type: PPM, PNG in older Pillows
        return _gray(_scaled(np.asarray(image, dtype=np.float32), 0, 65535))
    if mode in ("I", "F"):
        values = np.asarray(image, dtype=np.float32)
        values = np.where(np.isfinite(values), values, np.float32(0))
        return _gray(_scaled(values, *_range(values, is_float=mode == "F")))
    if mode == "LAB":
        what, fix = "the colour space LAB is not supported", "save the image as RGB"
        raise DataError(what, where=path, fix=fix)
    if mode in ("La", "RGBa"):  # colours multiplied by alpha
        image = image.convert("LA" if mode == "La" else "RGBA")
    pixels: NDArray[np.uint8] = np.array(image if mode == "RGB" else image.convert("RGB"))
    return pixels


def _scaled(values: NDArray[np.float32], low: float, high: float) -> NDArray[np.uint8]:
    """Linearly from low..high to 0..255, rounded."""
    levels = values - np.float32(low)
    levels *= np.float32(255.0 / (high - low))
    scaled: NDArray[np.uint8] = np.clip(np.rint(levels), 0, 255).astype(np.uint8)
    return scaled


def _range(values: NDArray[np.float32], *, is_float: bool) -> tuple[float, float]:
    """The values that become black and white, see `read_image`."""
    low, high = float(values.min()), float(values.max())
    if low >= 0:
        for white in (1.0, 255.0, 65535.0) if is_float else (255.0, 65535.0):
            if high <= white:
                return 0.0, white
    return low, high if high > low else low + 1.0


def _gray(levels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.repeat(levels[:, :, None], 3, axis=2)
