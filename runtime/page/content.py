"""What the page shows, and where it comes from: a running loop, or only the store that one writes."""

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
    """The loop whose page this is.

    Attributes:
        status: gives a snapshot; may be called from any thread.
        limits: of its health.
        pictures: what its cameras see.
    """

    status: Callable[[], LoopStatus]
    limits: HealthLimits
    pictures: LivePictures


@dataclass(frozen=True)
class Content:
    """All that the page can show.

    Attributes:
        store: the database of visits; it may not exist yet.
        state: the folder for what the page itself keeps: tokens, corrections, and pictures with their names.
        folders: where pictures and clips of visits lie. A file outside them is never served.
        classifier: gives the model that answers now, for explanations and uploaded pictures.
        running: the loop in this process, or None.
        use_model: has the model in another file answer from now on, after the checks of a reload; raises a
            `TwincarError` where it is refused. None: the model stays.
    """

    store: Path
    state: Path
    folders: tuple[Path, ...]
    classifier: Callable[[], Classifier]
    running: Running | None = None
    use_model: Callable[[Path], object] | None = None

    def saved(self, path: Path | None) -> Path | None:
        """Return a visit's picture or clip if it is still there and in one of the folders."""
        if path is None or not path.is_file():
            return None
        whole = path.resolve()
        return whole if any(whole.is_relative_to(folder.resolve()) for folder in self.folders) else None


class OwnClassifier:
    """A model for the page alone, opened when it is first needed."""

    def __init__(self, model: Path | None) -> None:
        """Take the file `model`, or the bundled one."""
        self._model = model
        self._lock = Lock()
        self._opened: Classifier | None = None

    def __call__(self) -> Classifier:
        """Return it; raises what opening a `Classifier` raises."""
        with self._lock:
            if self._opened is None:
                self._opened = Classifier(self._model or default_model(), threads=1)
            return self._opened

    def use(self, model: Path) -> None:
        """Use the model in another file; raises what opening a `Classifier` raises."""
        opened = Classifier(model, threads=1)
        with self._lock:
            self._opened = opened
