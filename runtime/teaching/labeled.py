"""Copies of pictures of visits, labeled by users, in one folder per class, as `train` reads them."""

from __future__ import annotations

import contextlib
import logging
import re
from pathlib import Path

from twincar_edge.errors import InputError
from twincar_edge.files import is_file, write_bytes
from twincar_edge.images import read_image_bytes
from twincar_edge.runtime.collect import class_folder

logger = logging.getLogger(__name__)


class LabeledPictures:
    """Copies of the pictures of judged visits, which remain after retention deletes the originals.

    Attributes:
        classes: the folder with one subfolder per class.
        no_vehicle: the folder of pictures without a vehicle, for `evaluate --unknown`.
    """

    def __init__(self, state: Path) -> None:
        """Use the state folder; subfolders are created as needed."""
        self.classes = state / "labeled"
        former = state / "labelled"  # the folder's name in version 0.2
        if former.is_dir():
            with contextlib.suppress(OSError):
                former.rename(self.classes)
            if former.is_dir():  # as after a while with that version again
                logger.warning("nothing reads the pictures in %s: move them into %s", former, self.classes)
        self.no_vehicle = state / "no-vehicle"

    def of_class(self, name: str) -> Path:
        """Return the folder of a class."""
        return self.classes / class_folder(name)

    def picture(self, visit: str, name: str) -> Path | None:
        """Return the copy of a visit's picture in the folder of a class, or None."""
        path = self.of_class(name) / _file_name(visit)
        return path if is_file(path) else None

    def keep(self, visit: str, folder: Path | None, picture: Path | None) -> bool:
        """Copy a visit's picture to `folder` and remove all other copies; return whether `folder` has the copy.

        Args:
            visit: the visit's id.
            folder: a folder of this object; None to remove all copies.
            picture: the visit's picture; None if it was deleted, in which case an earlier copy is moved.

        Raises:
            InputError: the picture cannot be read, or the copy cannot be written.
        """
        copies = self._copies(visit)
        if folder is not None:
            target = folder / _file_name(visit)
            if target in copies:
                copies.remove(target)
            elif (source := picture or next(iter(copies), None)) is not None:
                write_bytes(target, read_image_bytes(source))
            else:
                return False
        for copy in copies:
            try:
                copy.unlink(missing_ok=True)
                with contextlib.suppress(OSError):  # not empty; `train` rejects empty folders
                    copy.parent.rmdir()
            except OSError as error:
                raise InputError(f"cannot remove {copy}: {error.strerror}") from error
        return folder is not None

    def _copies(self, visit: str) -> list[Path]:
        name = _file_name(visit)
        return [*self.classes.glob(f"*/{name}"), *self.no_vehicle.glob(name)]


def _file_name(visit: str) -> str:
    return re.sub(r"[^A-Za-z0-9-]", "_", visit)[:200] + ".jpg"
