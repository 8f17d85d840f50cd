"""The data that the page shows: the store of visits, and a running loop if there is one in this process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from twincar_edge.bundled import default_model
from twincar_edge.runtime.inference.classifier import Classifier
from twincar_edge.runtime.monitoring.health import HealthLimits
from twincar_edge.runtime.monitoring.status import LoopStatus
from twincar_edge.runtime.page.pictures import LivePictures


@dataclass(frozen=True)
class Running:
    """The loop in this process.

    Attributes:
        status: returns a snapshot of its status; thread-safe.
        limits: the limits of its health check.
        pictures: the live pictures of its cameras.
    """

    status: Callable[[], LoopStatus]
    limits: HealthLimits
    pictures: LivePictures


@dataclass(frozen=True)
class Content:
    """The data that the page shows.

    Attributes:
        store: the database of visits; it may not exist yet.
        state: the folder of the page's own files: tokens, corrections, and labeled pictures.
        folders: the folders of the visits' pictures and clips. No file outside them is served.
        classifier: returns the model in use, for explanations and uploaded pictures.
        running: the loop in this process, or None.
        use_model: switches to the model in another file, after the checks of a reload; raises a `TwincarError` if they
            fail. None if the model cannot be switched.
        check_model: performs these checks only; None if `use_model` suffices.
    """

    store: Path
    state: Path
    folders: tuple[Path, ...]
    classifier: Callable[[], Classifier]
    running: Running | None = None
    use_model: Callable[[Path], object] | None = None
    check_model: Callable[[Path], object] | None = None

    def saved(self, path: Path | None) -> Path | None:
        """Return the path of a visit's picture or clip if it exists and is in one of the folders; otherwise None."""
        if path is None or not path.is_file():
            return None
        whole = path.resolve()
        return whole if any(whole.is_relative_to(folder.resolve()) for folder in self.folders) else None


class OwnClassifier:
    """The model of a page without a loop, opened at its first use."""

    def __init__(self, model: Path | None) -> None:
        """Prepare; `model` is a file, or None for the bundled one."""
        self._model = model
        self._lock = Lock()
        self._opened: Classifier | None = None

    def __call__(self) -> Classifier:
        """Return the classifier; raises the same errors as `Classifier`."""
        with self._lock:
            if self._opened is None:
                self._opened = Classifier(self._model or default_model(), threads=1)
            return self._opened

    def use(self, model: Path) -> None:
        """Switch to the model in another file; raises the same errors as `Classifier`."""
        opened = Classifier(model, threads=1)
        with self._lock:
            self._opened = opened
