"""Files are written atomically, and images are checked before they are decoded."""

from __future__ import annotations

import hashlib
import io
import os
import stat
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from twincar_edge.errors import InputError
from twincar_edge.files import replacing, sha256, write_bytes, write_text
from twincar_edge.image_headers import HeaderError, read_header
from twincar_edge.images import MAX_IMAGE_PIXELS, ImageError, decode_image, read_image, read_image_bytes, write_image
from twincar_edge.opencv_environment import MAX_PIXELS

FORMATS = [".jpg", ".png", ".bmp", ".webp", ".tif"]


def picture(width: int = 64, height: int = 48) -> np.ndarray:
    """A smooth picture, which lossy formats hardly change."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return np.stack([x, y, 255 - x], axis=2).astype(np.uint8)


def encoded(suffix: str, image: np.ndarray | None = None, *options: int) -> bytes:
    done, data = cv2.imencode(suffix, picture() if image is None else image, options)
    assert done
    return data.tobytes()


def png_of_claimed_size(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")
    )


# Files


def test_a_file_is_written_with_its_parent_folders_and_hashed(tmp_path: Path) -> None:
    path = tmp_path / "new" / "deep" / "notes.txt"
    write_text(path, "Škoda Octavia\n")
    assert path.read_bytes() == "Škoda Octavia\n".encode()
    assert sha256(path) == hashlib.sha256(path.read_bytes()).hexdigest()
    assert [entry.name for entry in path.parent.iterdir()] == ["notes.txt"]


def test_a_failed_write_leaves_only_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    write_bytes(path, b"old")
    with pytest.raises(RuntimeError), replacing(path) as temporary:
        temporary.write_bytes(b"half")
        raise RuntimeError
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupted_write_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), replacing(tmp_path / "video.mp4") as temporary:
        temporary.write_bytes(b"half")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_the_temporary_file_has_the_folder_and_suffix_of_the_target(tmp_path: Path) -> None:
    with replacing(tmp_path / "clip.mp4") as temporary:
        assert temporary.parent == tmp_path
        assert temporary.suffix == ".mp4"
        temporary.unlink()  # writers may make the file themselves
        temporary.write_bytes(b"video")
    assert (tmp_path / "clip.mp4").read_bytes() == b"video"


def test_file_permissions_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_bytes(tmp_path / "a.bin", b"x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.bin").stat().st_mode) == 0o640


@pytest.mark.parametrize("path", ["/dev/null", "/dev/new.txt", "{tmp}", "{tmp}/file.txt/below.txt"])
def test_devices_folders_and_paths_below_a_file_are_never_replaced(tmp_path: Path, path: str) -> None:
    (tmp_path / "file.txt").write_text("here")
    target = Path(path.format(tmp=tmp_path))
    with pytest.raises(InputError, match="cannot write") as caught:
        write_text(target, "x")
    assert "\n" not in str(caught.value)
    assert Path("/dev/null").is_char_device() and not Path("/dev/new.txt").exists()
    assert [entry.name for entry in tmp_path.iterdir()] == ["file.txt"]


def test_a_file_name_of_maximum_length_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 251 + ".txt")
    write_text(path, "long")
    assert path.read_text() == "long"


def test_hashing_a_missing_file_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read"):
        sha256(tmp_path / "none")


# Images


@pytest.mark.parametrize("suffix", FORMATS)
def test_an_image_round_trips_in_each_format(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"car{suffix}"
    write_image(path, picture())
    image = read_image(path)
    assert image.shape == (48, 64, 3)
    assert image.dtype == np.uint8
    assert np.abs(image.astype(int) - picture()).mean() < 6
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("share", [0.003, 0.05, 0.5, 0.9, 0.999])
def test_a_truncated_image_is_refused_instead_of_filled_with_gray(suffix: str, share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)
    data = encoded(suffix, noise)
    with pytest.raises(ImageError) as caught:
        decode_image(data[: max(4, int(len(data) * share))], "car")
    assert caught.value.problem in ("truncated", "damaged")


def with_thumbnail(photo: bytes) -> bytes:
    """Put a small JPEG into an APP1 segment, where cameras put their thumbnail."""
    body = b"Exif\0\0" + encoded(".jpg", picture(16, 12))
    return photo[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + photo[2:]


def test_the_end_of_a_thumbnail_does_not_hide_a_truncated_photo() -> None:
    photo = with_thumbnail(encoded(".jpg"))
    assert decode_image(photo, "photo").shape == (48, 64, 3)
    with pytest.raises(ImageError) as caught:
        decode_image(photo[:-200], "photo")
    assert caught.value.problem == "truncated"


def test_data_appended_to_a_photo_is_ignored() -> None:
    assert decode_image(encoded(".jpg") + b"motion photo" * 1000, "photo").shape == (48, 64, 3)


def test_progressive_jpeg_is_read() -> None:
    data = encoded(".jpg", None, cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
    assert decode_image(data, "photo").shape == (48, 64, 3)


def test_jpeg_scans_are_limited_despite_a_fake_end_marker() -> None:
    assert decode_image(jpeg_with_scans(100), "photo").shape == (48, 64, 3)
    first = jpeg_with_scans(10).index(b"\xff\xda")
    fake_end = b"\xff\xfe\x00\x04\xff\xd9"  # in a comment
    second = jpeg_with_scans(10).index(b"\xff\xc4", first)
    data = jpeg_with_scans(10)[:second] + fake_end + jpeg_with_scans(10)[second:]
    assert decode_image(data, "photo").shape == (48, 64, 3)
    with pytest.raises(ImageError, match="more than 100 scans"):
        decode_image(jpeg_with_scans(101, data), "photo")


def test_a_tiff_with_transparent_parts_is_refused_because_its_colors_would_be_changed() -> None:
    opaque = np.dstack([picture(), np.full((48, 64), 255, np.uint8)])
    assert np.array_equal(decode_image(tiff_with_alpha(opaque), "opaque"), picture())
    opaque[5, 7, 3] = 64
    with pytest.raises(ImageError, match="is a TIFF with transparent parts: convert it to PNG") as caught:
        decode_image(tiff_with_alpha(opaque), "clear")
    assert caught.value.problem == "transparent"
    assert np.array_equal(decode_image(encoded(".png", opaque), "clear"), picture())


def tiff_with_alpha(image_bgra: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image_bgra[..., [2, 1, 0, 3]]).save(file, "TIFF")
    return file.getvalue()


def test_grayscale_alpha_and_16_bit_images_become_8_bit_bgr() -> None:
    gray = picture()[:, :, 0]
    assert np.array_equal(decode_image(encoded(".png", gray), "gray"), np.repeat(gray[:, :, None], 3, axis=2))
    alpha = np.dstack([picture(), np.full((48, 64), 30, np.uint8)])
    assert np.array_equal(decode_image(encoded(".png", alpha), "alpha"), picture())
    deep = decode_image(encoded(".png", picture().astype(np.uint16) * 257), "deep")
    assert deep.dtype == np.uint8
    assert np.abs(deep.astype(int) - picture()).max() <= 1


def tiff_of(pixels: np.ndarray, largest: int | None = None) -> bytes:
    """An uncompressed TIFF of gray pixels, with SMaxSampleValue if it is given."""
    rows, columns = pixels.shape
    tags = [(256, 4, columns), (257, 4, rows), (258, 3, 8 * pixels.itemsize), (259, 3, 1), (262, 3, 1)]
    tags += [(273, 4, 0), (277, 3, 1), (278, 4, rows), (279, 4, pixels.nbytes)]
    if pixels.dtype.kind == "f":
        tags.append((339, 3, 3))
    if largest is not None:
        tags.append((341, 3, largest))
    tags[5] = (273, 4, 8 + 2 + 12 * len(tags) + 4)
    entries = (struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    return struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + b"".join(entries) + bytes(4) + pixels.tobytes()


def test_samples_of_12_bits_are_scaled_if_a_tiff_declares_them() -> None:
    gray = picture()[:, :, 0]
    read = decode_image(tiff_of(gray.astype("<u2") << 4, 4095), "car.tif")
    assert np.array_equal(read, np.repeat(gray[:, :, None], 3, axis=2))
    assert np.array_equal(decode_image(tiff_of(gray.astype("<u2") << 8, 65535), "car.tif"), read)
    assert decode_image(tiff_of(gray.astype("<u2") << 8, 4095), "car.tif").max() == 255  # above the declared maximum


@pytest.mark.parametrize("largest", [None, 100], ids=["undeclared", "absurd"])
def test_undeclared_samples_of_12_bits_are_refused(largest: int | None) -> None:
    twelve = picture().astype(np.uint16) << 4
    for data in (encoded(".png", twelve), encoded(".tif", twelve), tiff_of(twelve[:, :, 0], largest)):
        with pytest.raises(ImageError, match=r"^car uses at most 12 of its 16 bits.*scale it") as caught:
            decode_image(data, "car")
        assert caught.value.problem == "bit depth"
    night = picture().astype(np.uint16) << 5  # an eighth of the light
    assert decode_image(encoded(".png", night), "night").max() == 31


def test_a_floating_point_tiff_is_refused(capfd: pytest.CaptureFixture[str]) -> None:
    for data in (encoded(".tif", picture().astype(np.float32) / 255), tiff_of(picture()[:, :, 0].astype("<f4") / 255)):
        with pytest.raises(ImageError, match=r"^car has floating-point samples: convert it to 8 or 16 bits$") as caught:
            decode_image(data, "car")
        assert caught.value.problem == "bit depth"
    assert capfd.readouterr().err == ""


def tiff_of_claimed_size(kind: int, code: str, width: int, height: int) -> bytes:
    """An uncompressed gray TIFF with these tags for width and height; TIFF 6.0 allows only types 3 and 4."""
    tags = [(256, kind, width), (257, kind, height), (258, 3, 8), (259, 3, 1), (262, 3, 1), (273, 3, 122), (277, 3, 1)]
    tags += [(278, 3, 48), (279, 3, 64 * 48)]
    codes = {kind: code, 3: "H"}
    entries = (struct.pack("<HHI", tag, of, 1) + struct.pack("<" + codes[of], n).ljust(4, b"\0") for tag, of, n in tags)
    return struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + b"".join(entries) + bytes(4) + bytes(64 * 48)


def tiff_with_two_widths(first: tuple[int, int], second: tuple[int, int]) -> bytes:
    """A TIFF of 48 rows with two tags for its width, each given as type and value."""
    data = tiff_of_claimed_size(4, "I", 64, 48)
    width, rest = data[10:22], data[22:]
    widths = [width[:2] + struct.pack("<HII", kind, 1, value) for kind, value in (first, second)]
    return data[:8] + struct.pack("<H", 10) + b"".join(widths) + rest


def tiff_with_tiles(side: int) -> bytes:
    """A small TIFF with tiles of this side."""
    data = tiff_of_claimed_size(4, "I", 64, 48)
    tiles = b"".join(struct.pack("<HHII", tag, 4, 1, side) for tag in (322, 323))
    return data[:8] + struct.pack("<H", 11) + data[10 : 10 + 9 * 12] + tiles + data[10 + 9 * 12 :]


def jpeg_with_scans(scans: int, data: bytes | None = None) -> bytes:
    """A progressive JPEG that refines its last scan again and again."""
    data = data or encoded(".jpg", None, cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
    last = data.rindex(b"\xff\xda")
    return data[:-2] + data[last:-2] * (scans - data.count(b"\xff\xda")) + data[-2:]


def test_opencv_decodes_tiffs_with_sizes_of_an_invalid_type() -> None:
    """So such a size must be refused: treated as missing, it would bypass the limit."""
    data = np.frombuffer(tiff_of_claimed_size(9, "i", 64, 48), np.uint8)
    assert cv2.imdecode(data, cv2.IMREAD_COLOR).shape == (48, 64, 3)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "empty"),
        (tiff_of_claimed_size(9, "i", 64, 48), "damaged"),
        (tiff_of_claimed_size(9, "i", 30_000, 30_000), "damaged"),
        (tiff_of_claimed_size(9, "i", -64, 48), "damaged"),
        (tiff_of_claimed_size(1, "B", 64, 48), "damaged"),
        (tiff_of_claimed_size(4, "I", 0, 48), "damaged"),
        (tiff_of_claimed_size(4, "I", 30_000, 30_000), "too large"),
        (tiff_with_two_widths((9, 30_000), (3, 64)), "damaged"),
        (tiff_with_two_widths((4, 64), (4, 30_000)), "damaged"),
        (tiff_with_tiles(30_000), "damaged"),
        (jpeg_with_scans(101), "damaged"),
        (b"\xff\xd8" + b"\xff\xfe\0\2" * 5_000 + encoded(".jpg")[2:], "damaged"),
        (b"\n", "not an image"),
        (b"<!DOCTYPE html><html>404</html>", "not an image"),
        (b"BMW X5, BMW X6, BMW M3: a list that begins like a bitmap", "not an image"),
        (b"RIFF\x24\0\0\0WAVEfmt " + bytes(40), "not an image"),
        (b"RIFF\x24\0\0\0WEBPABCD" + bytes(40), "not an image"),
        (b"GIF89a" + bytes(40), "not an image"),
        (b"\xff\xd8\xff\xd9", "truncated"),
        (b"\xff\xd8\xff" + b"\xff" * 5000, "truncated"),
        (b"\xff\xd8\xff\xe0\0\0" * 10, "truncated"),
        (b"\x89PNG\r\n\x1a\n", "truncated"),
        (b"II*\0\xff\xff\xff\xff", "truncated"),
        (b"MM\0*\0\0\0\x08\xff\xff", "truncated"),
        (png_of_claimed_size(30_000, 30_000), "too large"),
        (png_of_claimed_size(2**31 - 1, 1), "too large"),
        (png_of_claimed_size(0, 4), "damaged"),
        (png_of_claimed_size(900, 900), "damaged"),
    ],
)
def test_an_unusable_image_is_a_one_line_error_with_its_problem(
    data: bytes, problem: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ImageError) as caught:
        decode_image(data, "folder/car.jpg")
    assert caught.value.problem == problem
    assert str(caught.value).startswith("folder/car.jpg ")
    assert "\n" not in str(caught.value)
    assert "OpenCV" not in capfd.readouterr().err


def test_a_small_file_that_claims_gigabytes_is_refused_before_allocation() -> None:
    program = (
        "import resource, sys\n"
        "from twincar_edge.images import MAX_IMAGE_PIXELS, ImageError, decode_image\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try:\n    decode_image(sys.stdin.buffer.read(), 'bomb')\n"
        "except ImageError as error:\n    print(error.problem)\n"
        "assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], input=png_of_claimed_size(30_000, 30_000), capture_output=True, check=True
    )
    assert done.stdout == b"too large\n"


def test_the_command_line_gives_opencv_the_same_pixel_limit() -> None:
    program = (
        "import sys\nfrom twincar_edge.cli import main\n"
        "try:\n    main(['--version'])\nexcept SystemExit:\n    pass\n"
        "import cv2, numpy as np\n"
        "try:\n    cv2.imdecode(np.frombuffer(sys.stdin.buffer.read(), np.uint8), 1)\n"
        "except cv2.error as error:\n    print(error.err)\n"
    )
    assert int(MAX_PIXELS[1]) == MAX_IMAGE_PIXELS
    environ = {name: value for name, value in os.environ.items() if name != MAX_PIXELS[0]}
    for width, refused in ((10_000, False), (10_001, True)):
        done = subprocess.run(
            [sys.executable, "-c", program], input=png_of_claimed_size(width, 10_000), capture_output=True, env=environ
        )
        assert (b"CV_IO_MAX_IMAGE_PIXELS" in done.stdout) is refused, done


@pytest.mark.parametrize("name", ["ima\0ge.jpg", "\ud800.jpg"])
def test_a_name_that_no_file_can_have_is_an_unreadable_image(name: str) -> None:
    with pytest.raises(ImageError, match="invalid file name") as caught:
        read_image(Path(name))
    assert caught.value.problem == "unreadable"
    assert str(caught.value).isprintable()


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_damaged_image_raises_only_image_errors(data: st.DataObject) -> None:
    suffix = data.draw(st.sampled_from(FORMATS))
    content = bytearray(encoded(suffix, picture(24, 16)))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, min(len(content) - 1, 200)))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(0, len(content)))]
    try:
        image = decode_image(bytes(content), "car")
    except ImageError:
        return
    assert image.dtype == np.uint8
    assert image.ndim == 3


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from([b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM", b"RIFF....WEBP", b"II*\0", b"MM\0*"]), st.binary()
)
def test_an_arbitrary_header_is_read_or_refused(magic: bytes, rest: bytes) -> None:
    try:
        header = read_header(magic + rest)
    except HeaderError:
        return
    assert header is None or min(header.size_wh) >= 0


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("size_wh", [(1, 1), (17, 5), (301, 200)])
def test_the_header_gives_the_size_of_the_image(suffix: str, size_wh: tuple[int, int]) -> None:
    header = read_header(encoded(suffix, picture(*size_wh)))
    assert header is not None
    assert header.size_wh == size_wh
    assert header.complete


def test_headers_of_lossless_and_transparent_webp_give_the_size() -> None:
    lossless = encoded(".webp", picture(33, 21), cv2.IMWRITE_WEBP_QUALITY, 101)
    alpha = encoded(".webp", np.dstack([picture(33, 21), picture(33, 21)[:, :, 0]]), cv2.IMWRITE_WEBP_QUALITY, 50)
    for data in (lossless, alpha):
        header = read_header(data)
        assert header is not None
        assert header.size_wh == (33, 21)
        assert decode_image(data, "car").shape == (21, 33, 3)


def test_missing_unreadable_and_too_large_files_are_distinguished(tmp_path: Path) -> None:
    large = tmp_path / "large.jpg"
    with large.open("wb") as file:
        file.truncate(65 * 2**20)  # sparse: no disk is used
    os.mkfifo(tmp_path / "pipe.jpg")  # never written to
    for path, problem in (
        (tmp_path / "none.jpg", "missing"), (tmp_path, "unreadable"), (tmp_path / "pipe.jpg", "unreadable"),
        (Path("/dev/zero"), "unreadable"), (large, "too large"),
    ):  # fmt: skip
        with pytest.raises(ImageError) as caught:
            read_image_bytes(path)
        assert caught.value.problem == problem


@pytest.mark.parametrize(
    ("name", "image", "complaint"),
    [
        ("car.xyz", picture(), "is not an image format"),
        ("car", picture(), "no suffix is not an image format"),
        ("car.jpg", np.zeros((0, 5, 3), np.uint8), "cannot write"),
        ("car.jpg", np.zeros((4, 4, 7), np.uint8), "cannot write"),
        ("car.jpg", np.zeros((1, 70_000, 3), np.uint8), "does not fit"),
    ],
)
def test_an_image_that_cannot_be_written_is_an_error_and_leaves_no_file(
    tmp_path: Path, name: str, image: np.ndarray, complaint: str
) -> None:
    with pytest.raises(InputError, match=complaint):
        write_image(tmp_path / name, image)
    assert list(tmp_path.iterdir()) == []
