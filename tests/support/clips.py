"""Small drawn clips of a road: a textured gray background with moving rectangles as cars."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from twincar_edge.runtime.locating.boxes import Box
from twincar_edge.runtime.sources import Frame

Image = NDArray[np.uint8]
RED_BGR, GREEN_BGR, BLUE_BGR = (30, 30, 210), (30, 200, 30), (210, 40, 30)
SIZE_WH = (320, 180)


def road(seed: int = 0, size_wh: tuple[int, int] = SIZE_WH) -> Image:
    """Return an image of gray asphalt with coarse texture and a bright line."""
    width, height = size_wh
    texture = np.random.default_rng(seed).normal(95, 7, (height // 4, width // 4)).astype(np.float32)
    picture = cv2.cvtColor(cv2.resize(texture, size_wh), cv2.COLOR_GRAY2BGR)
    cv2.line(picture, (0, height // 2), (width, height // 2), (200, 200, 200), 2)
    return np.clip(picture, 0, 255).astype(np.uint8)


@dataclass(frozen=True)
class Car:
    """A car that moves from `start` to `end` between two frames. Both are left edges; `y` is the top edge."""

    color_bgr: tuple[int, int, int]
    first: int
    last: int
    start: float
    end: float
    y: int = 60
    size_wh: tuple[int, int] = (90, 50)

    def box(self, frame: int) -> Box | None:
        """Return the car's box, including parts outside the frame, or None."""
        if not self.first <= frame <= self.last:
            return None
        share = (frame - self.first) / max(1, self.last - self.first)
        x = round(self.start + share * (self.end - self.start))
        return x, self.y, x + self.size_wh[0], self.y + self.size_wh[1]

    def draw(self, picture: Image, frame: int) -> None:
        """Draw the body, with a darker window if it is wide enough."""
        box = self.box(frame)
        if box is not None:
            left, top, right, bottom = box
            cv2.rectangle(picture, (left, top), (right - 1, bottom - 1), self.color_bgr, -1)
            window = tuple(int(value * 0.6) for value in self.color_bgr)
            if right - left > 50:
                cv2.rectangle(picture, (left + 25, top + 8), (right - 25, top + 20), window, -1)


def drive_by(color_bgr: tuple[int, int, int], first: int, frames: int = 30, *, to_the_right: bool = True) -> Car:
    """Return a car that crosses the whole picture."""
    ends = (-90, 320) if to_the_right else (320, -90)
    return Car(color_bgr, first, first + frames - 1, *ends)


def film(cars: Sequence[Car], frames: int, *, noise: float = 2.0, seed: int = 0) -> list[Image]:
    """Return the frames of a clip, with sensor noise."""
    rng = np.random.default_rng(seed)
    empty = road(seed)
    pictures = []
    for index in range(frames):
        picture = empty.copy()
        for car in cars:
            car.draw(picture, index)
        grain = rng.normal(0, noise, (*picture.shape[:2], 1))
        pictures.append(np.clip(picture + grain, 0, 255).astype(np.uint8))
    return pictures


def as_frames(pictures: Iterable[Image], fps: float = 25.0) -> list[Frame]:
    """Return the pictures as frames of a source."""
    return [Frame(index, index / fps, picture, "clip") for index, picture in enumerate(pictures)]


def write_video(path: Path, pictures: Sequence[Image], fourcc: str = "mp4v", fps: float = 25.0) -> Path:
    """Write a video file and return its path."""
    height, width = pictures[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*fourcc), fps, (width, height))
    assert writer.isOpened()
    for picture in pictures:
        writer.write(picture)
    writer.release()
    return path


def beginning_of(clip: Path, seconds: float, path: Path) -> Path:
    """Write the first seconds of an MP4 without encoding them again, and return the path."""
    import imageio_ffmpeg

    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-i", str(clip), "-t", str(seconds)]
    subprocess.run([*command, "-an", "-c", "copy", str(path)], check=True)
    return path
