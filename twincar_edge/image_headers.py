"""Reads the header of an encoded image, before a decoder does.

A few kilobytes can claim gigabytes of pixels, and a decoder allocates what the header claims. A truncated JPEG decodes
without an error, with the rest gray. Both are visible in the bytes. Only the formats in `FORMATS` are accepted, so that
OpenCV's rarer decoders never see untrusted files. The package imagesize reports neither format nor truncation, and
misreads OS/2 bitmaps.
Sources: ITU T.81 annex B (JPEG), the PNG specification section 5, Microsoft's BITMAPINFOHEADER, RFC 9649 (WebP),
TIFF 6.0 sections 2 and 19.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass

FORMATS = "JPEG, PNG, BMP, WebP or TIFF"
MAX_JPEG_SCANS = 100  # encoders write about 10; a decoder visits every block of the picture once per scan
MAX_TIFF_TILE_PIXELS = 2**24  # unless the picture is larger; a decoder allocates whole tiles


@dataclass(frozen=True)
class ImageHeader:
    """The content of an image's header.

    Attributes:
        format: one of `FORMATS`.
        size_wh: claimed width and height in pixels.
        complete: the bytes include the image's end, as far as the format tells.
        sample_bits: bits of a sample.
        max_value: largest value of a sample, if the file declares one.
        floating: samples are floating-point numbers.
        alpha: an alpha channel is declared; only for TIFF, whose decoder changes the colors by it.
    """

    format: str
    size_wh: tuple[int, int]
    complete: bool
    sample_bits: int = 8
    max_value: int | None = None
    floating: bool = False
    alpha: bool = False


class HeaderError(ValueError):
    """The bytes start like a known format, but are truncated."""


class InvalidHeaderError(HeaderError):
    """The header has invalid values, or values that must not reach a decoder."""


def read_header(data: bytes) -> ImageHeader | None:
    """Return the header of encoded bytes, or None if their format is not in `FORMATS`.

    Raises:
        HeaderError: they start like one of the formats, but the size is truncated or missing.
    """
    for magic, reader in _READERS.items():
        if data.startswith(magic) and (magic != b"RIFF" or data[8:12] == b"WEBP"):
            try:
                return reader(data)
            except (struct.error, IndexError) as error:
                raise HeaderError("it ends within a field") from error
    return None


def foreign_format(data: bytes) -> str | None:
    """Return the name of a known image format that is not supported, or None.

    Sources: ISO/IEC 14496-12 section 4.3 (the brands of `ftyp`); the magic numbers of GIF89a, JPEG 2000 and JPEG XL.
    """
    if data[4:8] == b"ftyp":
        return {b"avif": "AVIF", b"avis": "AVIF"}.get(data[8:12], "HEIC" if data[8:11] in _HEIC else None)
    return next((name for magic, name in _FOREIGN.items() if data.startswith(magic)), None)


_HEIC = (b"hei", b"hev", b"mif", b"msf")
_FOREIGN = {
    b"GIF8": "GIF",
    b"\0\0\0\x0cjP  ": "JPEG 2000",
    b"\xff\x0a": "JPEG XL",
    b"\0\0\0\x0cJXL ": "JPEG XL",
}


def _jpeg(data: bytes) -> ImageHeader:
    position, scans = 2, 0
    size_wh = None
    for _ in range(_MAX_JPEG_MARKERS):
        found = _JPEG_MARKER.search(data, position)
        if found is None or found[0] == b"\xff\xd9":
            if scans == 0 or size_wh is None:
                raise HeaderError("it has no frame" if found else "it ends before its size")
            return ImageHeader("JPEG", size_wh, found is not None)
        marker, position = found[0][1], found.end()
        if marker == 0xD8:
            continue
        if marker == 0xDA:
            scans += 1
            if scans > MAX_JPEG_SCANS:
                raise InvalidHeaderError(f"it has more than {MAX_JPEG_SCANS} scans")
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) and size_wh is None:
            height, width = struct.unpack_from(">HH", data, position + 3)
            size_wh = (width, height)
        position += struct.unpack_from(">H", data, position)[0]
    raise InvalidHeaderError(f"it has more than {_MAX_JPEG_MARKERS} markers")


def _png(data: bytes) -> ImageHeader:
    return ImageHeader("PNG", struct.unpack_from(">II", data, 16), data.rfind(b"IEND") >= 0, data[24])


def _bmp(data: bytes) -> ImageHeader | None:
    (header_size,) = struct.unpack_from("<I", data, 14)
    if header_size not in _BITMAP_HEADERS:
        return None  # text can begin with BM too
    width, height = struct.unpack_from("<HH" if header_size == 12 else "<ii", data, 18)
    return ImageHeader("BMP", (abs(width), abs(height)), True)


def _webp(data: bytes) -> ImageHeader | None:
    complete = struct.unpack_from("<I", data, 4)[0] + 8 <= len(data)
    kind = data[12:16]
    if kind == b"VP8 ":
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
    elif kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    elif kind == b"VP8X":
        width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
    else:
        return None
    return ImageHeader("WebP", (width, height), complete)


def _tiff(data: bytes) -> ImageHeader:
    order = "<" if data[:2] == b"II" else ">"
    (directory,) = struct.unpack_from(order + "I", data, 4)
    (count,) = struct.unpack_from(order + "H", data, directory)
    sides: dict[int, int] = {}
    samples: dict[int, int] = {}
    for entry in range(count):
        tag, kind, values = struct.unpack_from(order + "HHI", data, directory + 2 + 12 * entry)
        if tag in _TIFF_SAMPLES and kind == 3 and values:
            # One number for each channel; more than two do not fit here, and are elsewhere in the file.
            at = directory + 10 + 12 * entry
            (place,) = (at,) if values <= 2 else struct.unpack_from(order + "I", data, at)
            samples.setdefault(tag, max(struct.unpack_from(f"{order}{min(values, 8)}H", data, place)))
        if tag not in _TIFF_SIDES:
            continue
        # Decoders differ in which of two entries they take, and read types that TIFF 6.0 does not allow here.
        if tag in sides or kind not in (3, 4) or values != 1:
            raise InvalidHeaderError(f"its {_TIFF_SIDES[tag]} is not one number of 16 or 32 bits")
        (sides[tag],) = struct.unpack_from(order + ("H" if kind == 3 else "I"), data, directory + 10 + 12 * entry)
    width, height, tile_width, tile_height = (sides.get(tag, 0) for tag in _TIFF_SIDES)
    if tile_width * tile_height > max(width * height, MAX_TIFF_TILE_PIXELS):
        raise InvalidHeaderError(f"it has tiles of {tile_width}x{tile_height}, larger than the picture")
    bits, extra, sample_format, max_value = (samples.get(tag) for tag in _TIFF_SAMPLES)
    return ImageHeader("TIFF", (width, height), True, bits or 1, max_value, sample_format == _TIFF_FLOAT, bool(extra))


# Excludes stuffed zeros after 0xFF in the pixel data, fill bytes, and standalone markers.
_JPEG_MARKER = re.compile(rb"\xff[^\x00\x01\xff\xd0-\xd7]")
_MAX_JPEG_MARKERS = 4000
_TIFF_SIDES = {256: "width", 257: "height", 322: "tile width", 323: "tile height"}
_TIFF_SAMPLES = {258: "bits per sample", 338: "extra samples", 339: "sample format", 341: "largest sample value"}
_TIFF_FLOAT = 3
_BITMAP_HEADERS = (12, 40, 52, 56, 64, 108, 124)  # sizes of the header in the versions of the format
_READERS: dict[bytes, Callable[[bytes], ImageHeader | None]] = {
    b"\xff\xd8\xff": _jpeg,
    b"\x89PNG\r\n\x1a\n": _png,
    b"BM": _bmp,
    b"RIFF": _webp,
    b"II*\0": _tiff,
    b"MM\0*": _tiff,
}
