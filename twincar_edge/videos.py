"""OpenCV's reader and writer of video files. Their own constructors end the process if a path is not UTF-8."""

from __future__ import annotations

from pathlib import Path

import cv2

from twincar_edge.errors import InputError
from twincar_edge.files import check_utf8
from twincar_edge.opencv_environment import check_opencv_environment


def open_capture(place: str, name: str, *options: int) -> cv2.VideoCapture:
    """Open a video with FFmpeg; `isOpened` tells whether it succeeded.

    Args:
        place: an absolute path, since FFmpeg could read a name with a colon as a protocol, or a URL.
        name: the video's name in errors.
        options: pairs of a property and its value.

    Raises:
        InputError: the path or URL is not UTF-8, or an environment variable of OpenCV is invalid.
    """
    check_opencv_environment()
    check_utf8(place, f"cannot read the video {name}")
    return cv2.VideoCapture(place, cv2.CAP_FFMPEG, options)


def open_writer(path: Path, fps: float, size_wh: tuple[int, int]) -> cv2.VideoWriter:
    """Open a file for MPEG-4 (part 2), the codec that OpenCV's wheel can encode. The caller releases the writer.

    Args:
        path: the file, which may be a temporary one of `files.replacing`.
        fps: the frame rate.
        size_wh: width and height of all frames, in pixels.

    Raises:
        InputError: the path is not UTF-8, or the file cannot be written.
    """
    check_utf8(path, f"cannot write into {path.parent}")
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), fps, size_wh)
    if not writer.isOpened():
        raise InputError(
            f"cannot write a video into {path.parent}: check free space and permissions, and whether OpenCV has an "
            "MPEG-4 encoder, as opencv-python has"
        )
    return writer
