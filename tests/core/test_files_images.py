"""Files are written whole or not at all, and images that come from outside are checked before they are used."""

from __future__ import annotations

import hashlib
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

from twincar_edge.cli import OPENCV_PIXELS
from twincar_edge.errors import InputError
from twincar_edge.files import replacing, sha256, write_bytes, write_text
from twincar_edge.image_headers import HeaderError, read_header
from twincar_edge.images import MAX_IMAGE_PIXELS, ImageError, decode_image, read_image, read_image_bytes, write_image

FORMATS = [".jpg", ".png", ".bmp", ".webp", ".tif"]


def picture(width: int = 64, height: int = 48) -> np.ndarray:
    """A smooth picture, which every format keeps nearly as it is."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return np.stack([x, y, 255 - x], axis=2).astype(np.uint8)


def encoded(suffix: str, image: np.ndarray | None = None, *options: int) -> bytes:
    done, data = cv2.imencode(suffix, picture() if image is None else image, options)
    assert done
    return data.tobytes()


def png_that_claims(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")
    )


# Files


def test_a_file_is_written_with_its_folders_and_its_digest_is_known(tmp_path: Path) -> None:
    path = tmp_path / "new" / "deep" / "notes.txt"
    write_text(path, "Škoda Octavia\n")
    assert path.read_bytes() == "Škoda Octavia\n".encode()
    assert sha256(path) == hashlib.sha256(path.read_bytes()).hexdigest()
    assert [entry.name for entry in path.parent.iterdir()] == ["notes.txt"]


def test_after_an_error_nothing_is_left_and_the_old_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    write_bytes(path, b"old")
    with pytest.raises(RuntimeError), replacing(path) as temporary:
        temporary.write_bytes(b"half")
        raise RuntimeError
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupt_in_the_middle_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), replacing(tmp_path / "video.mp4") as temporary:
        temporary.write_bytes(b"half")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_the_temporary_path_stands_beside_the_file_and_has_its_suffix(tmp_path: Path) -> None:
    with replacing(tmp_path / "clip.mp4") as temporary:
        assert temporary.parent == tmp_path
        assert temporary.suffix == ".mp4"
        temporary.unlink()  # writers may make the file themselves
        temporary.write_bytes(b"video")
    assert (tmp_path / "clip.mp4").read_bytes() == b"video"


def test_the_users_umask_decides_who_may_read_the_file(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_bytes(tmp_path / "a.bin", b"x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.bin").stat().st_mode) == 0o640


@pytest.mark.parametrize("path", ["/dev/null", "{tmp}", "{tmp}/file.txt/below.txt"])
def test_a_device_a_folder_and_a_path_below_a_file_are_never_replaced(tmp_path: Path, path: str) -> None:
    (tmp_path / "file.txt").write_text("here")
    target = Path(path.format(tmp=tmp_path))
    with pytest.raises(InputError, match="cannot write") as caught:
        write_text(target, "x")
    assert "\n" not in str(caught.value)
    assert Path("/dev/null").is_char_device()
    assert [entry.name for entry in tmp_path.iterdir()] == ["file.txt"]


def test_a_full_name_still_has_room_for_the_temporary_one(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 251 + ".txt")
    write_text(path, "long")
    assert path.read_text() == "long"


def test_the_digest_of_a_missing_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read"):
        sha256(tmp_path / "none")


# Images


@pytest.mark.parametrize("suffix", FORMATS)
def test_an_image_comes_back_from_each_format(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"car{suffix}"
    write_image(path, picture())
    image = read_image(path)
    assert image.shape == (48, 64, 3)
    assert image.dtype == np.uint8
    assert np.abs(image.astype(int) - picture()).mean() < 6
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("share", [0.003, 0.05, 0.5, 0.9, 0.999])
def test_an_image_that_was_cut_off_is_refused_not_filled_with_gray(suffix: str, share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)
    data = encoded(suffix, noise)
    with pytest.raises(ImageError) as caught:
        decode_image(data[: max(4, int(len(data) * share))], "car")
    assert caught.value.problem in ("truncated", "damaged")


def with_thumbnail(photo: bytes) -> bytes:
    """Put a small JPEG into an APP1 segment, where cameras put their thumbnail."""
    body = b"Exif\0\0" + encoded(".jpg", picture(16, 12))
    return photo[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + photo[2:]


def test_the_end_of_a_thumbnail_is_not_taken_for_the_end_of_the_photo() -> None:
    photo = with_thumbnail(encoded(".jpg"))
    assert decode_image(photo, "photo").shape == (48, 64, 3)
    with pytest.raises(ImageError) as caught:
        decode_image(photo[:-200], "photo")
    assert caught.value.problem == "truncated"


def test_what_a_telephone_hangs_behind_a_photo_does_no_harm() -> None:
    assert decode_image(encoded(".jpg") + b"motion photo" * 1000, "photo").shape == (48, 64, 3)


def test_progressive_jpeg_is_read() -> None:
    data = encoded(".jpg", None, cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
    assert decode_image(data, "photo").shape == (48, 64, 3)


def test_a_jpeg_with_many_scans_is_read_up_to_a_bound_that_a_false_end_does_not_hide() -> None:
    assert decode_image(jpeg_with_scans(100), "photo").shape == (48, 64, 3)
    first = jpeg_with_scans(10).index(b"\xff\xda")
    false_end = b"\xff\xfe\x00\x04\xff\xd9"  # in a comment
    second = jpeg_with_scans(10).index(b"\xff\xc4", first)
    data = jpeg_with_scans(10)[:second] + false_end + jpeg_with_scans(10)[second:]
    assert decode_image(data, "photo").shape == (48, 64, 3)
    with pytest.raises(ImageError, match="more than 100 scans"):
        decode_image(jpeg_with_scans(101, data), "photo")


def test_grayscale_alpha_and_sixteen_bits_become_bgr() -> None:
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


def test_twelve_bits_in_sixteen_are_scaled_where_a_tiff_declares_them() -> None:
    gray = picture()[:, :, 0]
    read = decode_image(tiff_of(gray.astype("<u2") << 4, 4095), "car.tif")
    assert np.array_equal(read, np.repeat(gray[:, :, None], 3, axis=2))
    assert np.array_equal(decode_image(tiff_of(gray.astype("<u2") << 8, 65535), "car.tif"), read)
    assert decode_image(tiff_of(gray.astype("<u2") << 8, 4095), "car.tif").max() == 255  # above what it declares


@pytest.mark.parametrize("largest", [None, 100], ids=["undeclared", "absurd"])
def test_twelve_bits_in_sixteen_that_nothing_declares_are_refused_and_not_read_as_black(largest: int | None) -> None:
    twelve = picture().astype(np.uint16) << 4
    for data in (encoded(".png", twelve), encoded(".tif", twelve), tiff_of(twelve[:, :, 0], largest)):
        with pytest.raises(ImageError, match=r"^car uses at most 12 of its 16 bits.*scale it") as caught:
            decode_image(data, "car")
        assert caught.value.problem == "bit depth"
    night = picture().astype(np.uint16) << 5  # an eighth of the light
    assert decode_image(encoded(".png", night), "night").max() == 31


def test_a_tiff_of_floating_point_numbers_is_named(capfd: pytest.CaptureFixture[str]) -> None:
    for data in (encoded(".tif", picture().astype(np.float32) / 255), tiff_of(picture()[:, :, 0].astype("<f4") / 255)):
        with pytest.raises(ImageError, match=r"^car has floating-point samples: convert it to 8 or 16 bits$") as caught:
            decode_image(data, "car")
        assert caught.value.problem == "bit depth"
    assert capfd.readouterr().err == ""


def tiff_that_claims(kind: int, code: str, width: int, height: int) -> bytes:
    """An uncompressed TIFF of gray pixels whose width and height are of another type than TIFF 6.0 allows."""
    tags = [(256, kind, width), (257, kind, height), (258, 3, 8), (259, 3, 1), (262, 3, 1), (273, 3, 122), (277, 3, 1)]
    tags += [(278, 3, 48), (279, 3, 64 * 48)]
    codes = {kind: code, 3: "H"}
    entries = (struct.pack("<HHI", tag, of, 1) + struct.pack("<" + codes[of], n).ljust(4, b"\0") for tag, of, n in tags)
    return struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + b"".join(entries) + bytes(4) + bytes(64 * 48)


def tiff_with_two_widths(first: tuple[int, int], second: tuple[int, int]) -> bytes:
    """A TIFF of 48 rows whose width stands there twice, each as its type and its value."""
    data = tiff_that_claims(4, "I", 64, 48)
    width, rest = data[10:22], data[22:]
    widths = [width[:2] + struct.pack("<HII", kind, 1, value) for kind, value in (first, second)]
    return data[:8] + struct.pack("<H", 10) + b"".join(widths) + rest


def tiff_with_tiles(side: int) -> bytes:
    """A TIFF that is small, and has tiles that may not be."""
    data = tiff_that_claims(4, "I", 64, 48)
    tiles = b"".join(struct.pack("<HHII", tag, 4, 1, side) for tag in (322, 323))
    return data[:8] + struct.pack("<H", 11) + data[10 : 10 + 9 * 12] + tiles + data[10 + 9 * 12 :]


def jpeg_with_scans(scans: int, data: bytes | None = None) -> bytes:
    """A progressive JPEG that refines its last scan again and again."""
    data = data or encoded(".jpg", None, cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
    last = data.rindex(b"\xff\xda")
    return data[:-2] + data[last:-2] * (scans - data.count(b"\xff\xda")) + data[-2:]


def test_opencv_decodes_tiffs_whose_size_is_of_another_type() -> None:
    """So that such a size must not pass as none, which no limit catches."""
    data = np.frombuffer(tiff_that_claims(9, "i", 64, 48), np.uint8)
    assert cv2.imdecode(data, cv2.IMREAD_COLOR).shape == (48, 64, 3)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "empty"),
        (tiff_that_claims(9, "i", 64, 48), "damaged"),
        (tiff_that_claims(9, "i", 30_000, 30_000), "damaged"),
        (tiff_that_claims(9, "i", -64, 48), "damaged"),
        (tiff_that_claims(1, "B", 64, 48), "damaged"),
        (tiff_that_claims(4, "I", 0, 48), "damaged"),
        (tiff_that_claims(4, "I", 30_000, 30_000), "too large"),
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
        (png_that_claims(30_000, 30_000), "too large"),
        (png_that_claims(2**31 - 1, 1), "too large"),
        (png_that_claims(0, 4), "damaged"),
        (png_that_claims(900, 900), "damaged"),
    ],
)
def test_what_is_no_usable_image_is_one_line_of_a_known_kind(
    data: bytes, problem: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ImageError) as caught:
        decode_image(data, "folder/car.jpg")
    assert caught.value.problem == problem
    assert str(caught.value).startswith("folder/car.jpg ")
    assert "\n" not in str(caught.value)
    assert "OpenCV" not in capfd.readouterr().err


def test_a_few_bytes_that_claim_gigabytes_are_refused_before_anything_is_allocated() -> None:
    program = (
        "import resource, sys\n"
        "from twincar_edge.images import MAX_IMAGE_PIXELS, ImageError, decode_image\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try:\n    decode_image(sys.stdin.buffer.read(), 'bomb')\n"
        "except ImageError as error:\n    print(error.problem)\n"
        "assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], input=png_that_claims(30_000, 30_000), capture_output=True, check=True
    )
    assert done.stdout == b"too large\n"


def test_opencv_has_the_same_limit_in_the_command_line() -> None:
    program = (
        "import sys\nfrom twincar_edge.cli import main\n"
        "try:\n    main(['--version'])\nexcept SystemExit:\n    pass\n"
        "import cv2, numpy as np\n"
        "try:\n    cv2.imdecode(np.frombuffer(sys.stdin.buffer.read(), np.uint8), 1)\n"
        "except cv2.error as error:\n    print(error.err)\n"
    )
    assert int(OPENCV_PIXELS[1]) == MAX_IMAGE_PIXELS
    environ = {name: value for name, value in os.environ.items() if name != OPENCV_PIXELS[0]}
    for width, refused in ((10_000, False), (10_001, True)):
        done = subprocess.run(
            [sys.executable, "-c", program], input=png_that_claims(width, 10_000), capture_output=True, env=environ
        )
        assert (b"CV_IO_MAX_IMAGE_PIXELS" in done.stdout) is refused, done


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_no_damage_does_more_than_an_image_error(data: st.DataObject) -> None:
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
def test_a_header_of_any_bytes_is_read_or_refused(magic: bytes, rest: bytes) -> None:
    try:
        header = read_header(magic + rest)
    except HeaderError:
        return
    assert header is None or min(header.size_wh) >= 0


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("size_wh", [(1, 1), (17, 5), (301, 200)])
def test_the_header_tells_the_size_that_the_decoder_gives(suffix: str, size_wh: tuple[int, int]) -> None:
    header = read_header(encoded(suffix, picture(*size_wh)))
    assert header is not None
    assert header.size_wh == size_wh
    assert header.complete


def test_lossless_and_animated_webp_tell_their_size() -> None:
    lossless = encoded(".webp", picture(33, 21), cv2.IMWRITE_WEBP_QUALITY, 101)
    alpha = encoded(".webp", np.dstack([picture(33, 21), picture(33, 21)[:, :, 0]]), cv2.IMWRITE_WEBP_QUALITY, 50)
    for data in (lossless, alpha):
        header = read_header(data)
        assert header is not None
        assert header.size_wh == (33, 21)
        assert decode_image(data, "car").shape == (21, 33, 3)


def test_missing_unreadable_and_too_large_files_are_told_apart(tmp_path: Path) -> None:
    large = tmp_path / "large.jpg"
    with large.open("wb") as file:
        file.truncate(65 * 2**20)  # sparse: no disk is used
    os.mkfifo(tmp_path / "pipe.jpg")  # nobody will ever write into it
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
def test_an_image_that_cannot_be_written_says_why_and_leaves_nothing(
    tmp_path: Path, name: str, image: np.ndarray, complaint: str
) -> None:
    with pytest.raises(InputError, match=complaint):
        write_image(tmp_path / name, image)
    assert list(tmp_path.iterdir()) == []
