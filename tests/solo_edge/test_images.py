"""Image files of every kind: known pixels for the good ones, one clear line for the bad ones."""

from __future__ import annotations

import hashlib
import io
import os
import struct
import time
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from solo_edge.errors import DataError, SoloEdgeError, UsageError
from solo_edge.images import (
    TooLargeError,
    decode_image,
    image_size,
    list_images,
    read_header,
    read_image,
    read_values,
    unturned,
)

RGB = np.random.default_rng(0).integers(0, 256, (13, 17, 3), dtype=np.uint8)
GRAY = np.arange(13 * 17, dtype=np.uint8).reshape(13, 17)


def in_three(gray: np.ndarray) -> np.ndarray:
    return np.repeat(np.asarray(gray, dtype=np.uint8)[:, :, None], 3, axis=2)


def save(path: Path, pixels: np.ndarray | Image.Image, **options: object) -> Path:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(path, **options)
    return path


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return (
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
    )


def png_header(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header)


def good_files(folder: Path) -> dict[str, tuple[Path, np.ndarray]]:
    """Name -> file of that kind, and the pixels it stands for."""
    alpha = np.full((13, 17, 1), 90, dtype=np.uint8)
    fine = GRAY.astype(np.uint16) * 257
    few = Image.fromarray(RGB).quantize(16)
    bits = GRAY % 2 * 255
    palette_with_alpha = few.copy()
    palette_with_alpha.info["transparency"] = bytes(range(16))
    kinds: dict[str, tuple[str, np.ndarray | Image.Image, np.ndarray]] = {
        "rgb": (".png", RGB, RGB),
        "gray": (".png", GRAY, in_three(GRAY)),
        "rgba": (".png", np.concatenate([RGB, alpha], axis=2), RGB),
        "la": (".png", Image.fromarray(np.dstack([GRAY, alpha])), in_three(GRAY)),
        "palette": (".png", few, np.array(few.convert("RGB"))),
        "palette alpha": (".png", palette_with_alpha, np.array(few.convert("RGB"))),
        "one bit": (".png", Image.fromarray(bits).convert("1"), in_three(bits)),
        "cmyk": (".tif", Image.fromarray(RGB).convert("CMYK"), RGB),
        "16-bit png": (".png", fine, in_three(GRAY)),
        "16-bit tiff": (".tif", fine, in_three(GRAY)),
        "16-bit big-endian": (".tif", Image.fromarray(fine.astype(">u2")), in_three(GRAY)),
        "16-bit ppm": (".pgm", fine.astype(np.int32), in_three(GRAY)),
        "32-bit of 8": (".tif", GRAY.astype(np.int32), in_three(GRAY)),
        "32-bit of 16": (".tif", fine.astype(np.int32), in_three(GRAY)),
        "32-bit wide": (".tif", GRAY.astype(np.int32) * 4_000_000 - 77, in_three(GRAY / 220 * 255)),
        "float 0..1": (".tif", (GRAY / 255).astype(np.float32), in_three(GRAY)),
        "float 0..255": (".tif", GRAY.astype(np.float32), in_three(GRAY)),
        "float negative": (".tif", GRAY.astype(np.float32) - 9, in_three(GRAY / 220 * 255)),
        "bmp": (".bmp", RGB, RGB),
        "gif": (".gif", few, np.array(few.convert("RGB"))),
        "webp": (".webp", RGB, RGB),
        "jpeg 2000": (".jp2", RGB, RGB),
    }
    options: dict[str, dict[str, object]] = {"webp": {"lossless": True}}
    return {
        name: (save(folder / f"{name}{suffix}", pixels, **options.get(name, {})), expected)
        for name, (suffix, pixels, expected) in kinds.items()
    }


def test_every_kind_becomes_8_bit_rgb(tmp_path: Path) -> None:
    for name, (path, expected) in good_files(tmp_path).items():
        found = read_image(path)
        assert found.dtype == np.uint8, name
        assert found.shape == expected.shape, name
        assert found.flags.writeable, name
        assert np.abs(found.astype(int) - expected).max() <= 1, name
        assert image_size(path) == (13, 17), name


def test_16_bit_is_scaled_over_its_whole_range(tmp_path: Path) -> None:
    values = np.array([[0, 128, 129, 32767, 32768, 65407, 65408, 65535]], dtype=np.uint16)
    found = read_image(save(tmp_path / "x.png", values))[0, :, 0]
    np.testing.assert_array_equal(found, np.rint(values[0] / 257))


def test_16_bit_colour(tmp_path: Path) -> None:
    """Written by hand, since Pillow writes no 16-bit colour."""
    fine = (RGB.astype(np.uint16) * 257).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in fine)
    header = struct.pack(">IIBBBBB", 17, 13, 16, 2, 0, 0, 0)
    chunks = (b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")
    path = tmp_path / "x.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks))
    assert np.abs(read_image(path).astype(int) - RGB).max() <= 1


def test_numbers_that_are_none_become_black(tmp_path: Path) -> None:
    values = np.array([[np.nan, 0.5, np.inf, 1.0]], dtype=np.float32)
    found = read_image(save(tmp_path / "x.tif", values))[0, :, 0]
    np.testing.assert_array_equal(found, [0, 128, 0, 255])


def test_constant_and_tiny_images(tmp_path: Path) -> None:
    for value in (-5.0, 0.0, 1e9):
        pixels = np.full((1, 1), value, dtype=np.float32)
        assert read_image(save(tmp_path / "x.tif", pixels)).shape == (1, 1, 3)
    assert read_image(save(tmp_path / "x.png", RGB[:1, :1])).tolist() == RGB[:1, :1].tolist()


def test_jpegs(tmp_path: Path) -> None:
    """Lossy: close on average for a smooth picture, in colour, gray and CMYK."""
    down, right = np.mgrid[0:64, 0:96]
    smooth = np.dstack([2 * right, 3 * down, down + right]).astype(np.uint8)
    colour = Image.fromarray(smooth)
    for name, image in {"rgb": colour, "cmyk": colour.convert("CMYK")}.items():
        found = read_image(save(tmp_path / f"{name}.jpg", image, quality=95))
        assert np.abs(found.astype(int) - smooth).mean() < 2.5, name
    found = read_image(save(tmp_path / "gray.jpg", colour.convert("L"), quality=95))
    assert (found[:, :, 0] == found[:, :, 2]).all()


def test_first_frame_of_animations(tmp_path: Path) -> None:
    frames = [Image.fromarray(np.full((8, 9, 3), level, dtype=np.uint8)) for level in (250, 9)]
    for suffix in (".gif", ".webp", ".tif", ".png"):
        extra = {"lossless": True} if suffix == ".webp" else {}
        path = tmp_path / f"x{suffix}"
        frames[0].save(path, save_all=True, append_images=frames[1:], **extra)
        assert (read_image(path) == 250).all(), suffix


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path: Path, suffix: str, orientation: int) -> None:
    """The same picture stored in eight ways, each written out pixel by pixel."""
    upright = np.zeros((16, 32, 3), dtype=np.uint8)
    upright[:8, :8] = 255  # a white corner top left
    upright[:8, 8:] = (255, 0, 0)  # the rest of the upper half red
    height, width = upright.shape[:2]
    # EXIF 2.3: which visual corner the stored row 0 and column 0 are at.
    stored_at = {
        1: lambda y, x: (y, x),  # row 0 top, column 0 left
        2: lambda y, x: (y, width - 1 - x),  # top, right
        3: lambda y, x: (height - 1 - y, width - 1 - x),  # bottom, right
        4: lambda y, x: (height - 1 - y, x),  # bottom, left
        5: lambda y, x: (x, y),  # left, top
        6: lambda y, x: (x, width - 1 - y),  # row 0 is the visual right side, column 0 the top
        7: lambda y, x: (height - 1 - x, width - 1 - y),  # right, bottom
        8: lambda y, x: (height - 1 - x, y),  # left, bottom
    }[orientation]
    shape = (height, width) if orientation < 5 else (width, height)
    stored = np.zeros((*shape, 3), dtype=np.uint8)
    for y in range(shape[0]):
        for x in range(shape[1]):
            stored[y, x] = upright[stored_at(y, x)]
    exif = Image.Exif()
    exif[274] = orientation
    extra = {".jpg": {"quality": 100, "subsampling": 0}, ".webp": {"lossless": True}}
    path = save(tmp_path / f"x{suffix}", stored, exif=exif, **extra.get(suffix, {}))
    assert image_size(path) == (16, 32)
    assert np.abs(read_image(path).astype(int) - upright).max() <= 3


def test_exif_data_behind_the_pixels(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    whole = save(tmp_path / "x.png", RGB).read_bytes()
    end = whole.index(b"IEND") - 4
    late = png_chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))
    path = tmp_path / "late.png"
    path.write_bytes(whole[:end] + late + whole[end:])
    assert image_size(path) == (17, 13)
    np.testing.assert_array_equal(read_image(path), np.rot90(RGB, -1))


def test_damaged_exif_is_ignored(tmp_path: Path) -> None:
    path = save(tmp_path / "x.jpg", RGB, exif=b"Exif\0\0II*\0\xff\xff\xff\xff" + bytes(range(60)))
    assert read_image(path).shape == RGB.shape
    assert image_size(path) == (13, 17)


def bad_files(folder: Path) -> dict[str, Path]:
    contents: dict[str, bytes] = {}
    for suffix in ("JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP"):
        file = io.BytesIO()
        noise = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(noise).save(file, suffix)
        contents[f"half.{suffix.lower()}"] = file.getvalue()[: len(file.getvalue()) // 2]
        contents[f"head.{suffix.lower()}"] = file.getvalue()[:20]
    contents |= {
        "empty.jpg": b"",
        "text.jpg": b"this is a shopping list\n" * 20,
        "random.png": np.random.default_rng(2).bytes(5000),
        "postscript.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n",
        "page.jpg": b"<!DOCTYPE html><html></html>",
        "vector.png": b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>",
        "archive.jpg": b"PK\x03\x04" + bytes(100),
        "no size.png": png_header(0, 9) + png_chunk(b"IEND", b""),
        "no pixels.png": png_header(9, 9) + png_chunk(b"IEND", b""),
        "short pixels.png": png_header(90, 90)
        + png_chunk(b"IDAT", zlib.compress(b"\0" * 99))
        + png_chunk(b"IEND", b""),
        "wrong checksum.png": png_header(9, 9)[:-1] + b"?",
        "huge.png": png_header(40_000, 40_000) + png_chunk(b"IDAT", zlib.compress(bytes(9999))),
        "large.png": png_header(10_001, 10_000) + png_chunk(b"IDAT", zlib.compress(bytes(9999))),
        "zip bomb.png": png_header(9, 9)
        + png_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(99_999_999))),
    }
    paths = {}
    for name, content in contents.items():
        paths[name] = folder / name
        paths[name].write_bytes(content)
    return paths


def test_bad_files_give_one_line(tmp_path: Path) -> None:
    for name, path in bad_files(tmp_path).items():
        with pytest.raises(DataError) as caught:
            read_image(path)
        message = str(caught.value)
        assert str(path) in message, name
        assert "\n" not in message, name
        assert len(message) < len(str(path)) + 250, name


def test_words_of_common_mistakes(tmp_path: Path) -> None:
    paths = bad_files(tmp_path)
    for name, words in {
        "empty.jpg": "the file is empty",
        "text.jpg": "not an image of a known kind",
        "half.jpeg": "damaged image",
        "large.png": "10001 x 10000 pixels are more than 100 million",
        "huge.png": "too many pixels",
    }.items():
        with pytest.raises(DataError, match=words):
            read_image(paths[name])


def test_size_is_checked_before_decoding(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(png_header(30_000, 3_000) + png_chunk(b"IDAT", zlib.compress(bytes(9999))))
    started = time.perf_counter()
    with pytest.raises(DataError, match="more than 1 million"):
        read_image(path, max_pixels=1_000_000)
    assert time.perf_counter() - started < 1


def test_flipped_bytes_never_escape(tmp_path: Path) -> None:
    """Whatever is damaged: pixels or a DataError, and nothing is said on the side."""
    rng = np.random.default_rng(3)
    path = tmp_path / "damaged"
    messages = []
    for format_name in ("JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP", "PPM"):
        file = io.BytesIO()
        Image.fromarray(RGB).save(file, format_name)
        for _ in range(40):
            content = bytearray(file.getvalue())
            for position in rng.integers(0, len(content), 3):
                content[position] = rng.integers(256)
            path.write_bytes(content)
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                try:
                    read_image(path)
                    image_size(path)
                except DataError as error:
                    messages.append(str(error))
    assert len(messages) > 50
    assert not any("\n" in message for message in messages)


def test_what_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (tmp_path / "loop.jpg").symlink_to(tmp_path / "loop.jpg")
    (tmp_path / "folder.jpg").mkdir()
    os.mkfifo(tmp_path / "pipe.jpg")
    for name, words in {
        "missing.jpg": "no such image file",
        "gone.jpg": "dangling link",
        "loop.jpg": "link to itself",
        "folder.jpg": "is a folder",
        "pipe.jpg": "not a regular file",
        "nul\0.jpg": "no such image file",
        "gone.jpg/x.jpg": "no such image file",
        "x" * 300 + ".jpg": "no such image file",
    }.items():
        with pytest.raises(UsageError, match=words):
            read_image(tmp_path / name)


def test_nothing_is_written(tmp_path: Path) -> None:
    paths = [path for path, _ in good_files(tmp_path).values()] + list(bad_files(tmp_path).values())

    def state() -> dict[str, tuple[str, int]]:
        return {
            p.name: (hashlib.sha256(p.read_bytes()).hexdigest(), p.stat().st_mtime_ns)
            for p in tmp_path.iterdir()
        }

    before = state()
    for path in paths:
        for read in (read_image, image_size):
            try:
                read(path)
            except DataError:
                continue
    assert len(list_images(tmp_path)) > 20
    assert state() == before


def test_list_folder_in_natural_order(tmp_path: Path) -> None:
    names = ["frame10.png", "frame2.JPG", "Frame1.png", "b.jpeg", "a.webp"]
    for name in [*names, "notes.txt", "._frame2.JPG", "none"]:
        (tmp_path / name).touch()
    (tmp_path / "folder.jpg").mkdir()
    found = [path.name for path in list_images(str(tmp_path))]
    assert found == ["a.webp", "b.jpeg", "Frame1.png", "frame2.JPG", "frame10.png"]


def test_list_file_and_pattern(tmp_path: Path) -> None:
    for name in ("a[1].png", "a1.png", "b.png", "b.txt", "without_suffix"):
        (tmp_path / name).touch()
    (tmp_path / "deep/er").mkdir(parents=True)
    (tmp_path / "deep/er/c.png").touch()

    def names(source: str) -> list[str]:
        return [path.name for path in list_images(str(tmp_path / source))]

    assert names("without_suffix") == ["without_suffix"]
    assert names("a[1].png") == ["a[1].png"]  # a file of that very name
    assert names("a[12].png") == ["a1.png"]
    assert names("b.*") == ["b.png"]
    assert names("**/*.png") == ["a1.png", "a[1].png", "b.png", "c.png"]


def test_list_folder_with_brackets(tmp_path: Path) -> None:
    folder = tmp_path / "set [1]"
    folder.mkdir()
    save(folder / "x.png", RGB)
    assert list_images(folder) == [folder / "x.png"]
    assert list_images(str(folder / "x.png")) == [folder / "x.png"]


def test_nothing_found(tmp_path: Path) -> None:
    (tmp_path / "x.txt").touch()
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    for source, words in {
        ".": None,  # the dangling link is listed: reading it tells what is wrong
        "folder.jpg": "no images in this folder",
        "*.png": "no images match this pattern",
        "missing": "no such file or folder",
        "gone.jpg": "dangling link",
        "x" * 300: "no such file or folder",
    }.items():
        if words is None:
            assert list_images(tmp_path / source) == [tmp_path / "gone.jpg"]
            continue
        with pytest.raises(UsageError, match=words) as caught:
            list_images(str(tmp_path / source))
        assert isinstance(caught.value, SoloEdgeError)
        assert "\n" not in str(caught.value)


def test_images_in_memory_are_read_like_files(tmp_path: Path) -> None:
    save(tmp_path / "x.png", RGB)
    content = (tmp_path / "x.png").read_bytes()
    np.testing.assert_array_equal(decode_image(content, "x"), read_image(tmp_path / "x.png"))
    for broken, words in (
        (b"", "the file is empty"),
        (b"x", "not an image"),
        (content[:50], "damaged"),
    ):
        with pytest.raises(DataError, match=words) as caught:
            decode_image(broken, "photo 7")
        assert caught.value.where == "photo 7"
    with pytest.raises(TooLargeError):
        decode_image(content, "x", max_pixels=1)


def test_headers_say_what_the_pixels_are(tmp_path: Path) -> None:
    stored = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[274] = orientation
        Image.fromarray(stored).save(tmp_path / "x.png", exif=exif)
        header = read_header(tmp_path / "x.png")
        upright = read_image(tmp_path / "x.png")
        assert header.size == upright.shape[:2]
        assert (header.orientation, header.mode, header.format) == (orientation, "RGB", "PNG")
        if orientation >= 5:
            np.testing.assert_array_equal(unturned(upright, orientation), stored)


def test_values_of_label_images_are_not_colours(tmp_path: Path) -> None:
    values = np.arange(12, dtype=np.uint8).reshape(3, 4)
    palette = Image.fromarray(values)
    palette.putpalette([200] * 768)
    wide = values.astype(np.uint16) * 5000
    colours = np.stack([values, values + 1, values + 2], axis=-1)
    for image, expected in (
        (Image.fromarray(values), values),
        (palette, values),
        (Image.fromarray(wide), wide),
        (Image.fromarray(values > 5), values > 5),
        (Image.fromarray(colours), colours @ np.array([65536, 256, 1])),
    ):
        image.save(tmp_path / "x.png")
        np.testing.assert_array_equal(read_values(tmp_path / "x.png"), expected)
