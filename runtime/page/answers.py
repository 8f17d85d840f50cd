"""Explanations of visits and of uploaded pictures, by the model in use."""

from __future__ import annotations

import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from twincar_edge.errors import InputError
from twincar_edge.images import MAX_UPLOAD_PIXELS, decode_image, read_image
from twincar_edge.runtime.explain_exported import explain_crop
from twincar_edge.runtime.explanation import RUNNER_UP, Explanation, ExplanationStoppedError
from twincar_edge.runtime.inference.answers import Guess, Prediction
from twincar_edge.runtime.inference.classifier import Classifier
from twincar_edge.runtime.page.content import Content
from twincar_edge.runtime.page.guard import MAX_BODY_BYTES
from twincar_edge.runtime.page.login import user_of
from twincar_edge.runtime.page.rendering import Pages
from twincar_edge.runtime.page.visits import find_visit

_CACHED_BYTES = 64 * 2**20  # of the pictures that a browser can still load
_PLACES = 4  # one picture at work, and three that wait
_BUSY_S = 10.0  # timeout for earlier explanations
_TIMEOUT_S = 10.0  # for a comparison, which runs the model about 200 times
_JPEG_QUALITY = 88


@dataclass(frozen=True)
class ExplainedAnswer:
    """An answer with its explanation, whose pictures `Answers.picture` returns.

    Attributes:
        id: a random name for the URLs of the pictures.
        prediction: the answer.
        target: the class whose support is shown.
        against: the class that it is compared with; None without a comparison.
        looks_like: see `Explanation`.
    """

    id: str
    prediction: Prediction
    target: str
    against: str | None
    looks_like: tuple[Guess, ...]


class Answers:
    """Answers and explains pictures, one at a time, and caches the newest JPEGs until browsers have loaded them.

    An uploaded picture may have 40 megapixels, so only the one at work is in memory, decoded or not.
    """

    def __init__(self, content: Content) -> None:
        """Prepare; `content` returns the model in use."""
        self._content = content
        self._cache: OrderedDict[str, dict[str, bytes]] = OrderedDict()
        self._lock = threading.Lock()
        self._places = threading.BoundedSemaphore(_PLACES)
        self._working = threading.Lock()

    def answer(self, load: Callable[[], NDArray[np.uint8]], against: str | None = None) -> ExplainedAnswer:
        """Answer and explain a picture.

        Args:
            load: returns the picture, uint8 [H, W, 3]; called when its turn has come.
            against: the class to compare the answer with; None for the second-best one.

        Raises:
            HTTPException: too many others wait, or they take too long.
            InputError: the class is unknown, or raised by `load`.
            ModelError: the model fails.
        """
        with self._turn():
            image_bgr = load()
            classifier = self._content.classifier()
            evidence = explain_crop(classifier, image_bgr)
            pictures = {"picture": _jpeg(image_bgr), "evidence": _jpeg(evidence.overlay_bgr)}
            prediction, target, looks_like = evidence.prediction, evidence.target, evidence.looks_like
            del evidence  # its map has the size of the picture, and so has the next one
            contrast = None
            if len(classifier.session.classes) > 1:
                contrast = _contrast(classifier, image_bgr, against, time.monotonic() + _TIMEOUT_S)
            if contrast is not None:
                pictures["contrast"] = _jpeg(contrast.overlay_bgr)
            id = secrets.token_urlsafe(12)
            self._keep(id, pictures)
            against = None if contrast is None else contrast.against
            return ExplainedAnswer(id, prediction, target, against, looks_like)

    def picture(self, id: str, name: str) -> bytes | None:
        """Return a JPEG of an answer, or None if it is not in the cache."""
        with self._lock:
            return self._cache.get(id, {}).get(name)

    def _keep(self, id: str, pictures: dict[str, bytes]) -> None:
        with self._lock:
            self._cache[id] = pictures
            size = sum(len(data) for one in self._cache.values() for data in one.values())
            while size > _CACHED_BYTES and len(self._cache) > 1:
                size -= sum(map(len, self._cache.popitem(last=False)[1].values()))

    @contextmanager
    def _turn(self) -> Iterator[None]:
        busy = HTTPException(
            503, "The page is busy with other explanations: try again later.", {"Retry-After": f"{_BUSY_S:.0f}"}
        )
        if not self._places.acquire(blocking=False):
            raise busy
        try:
            if not self._working.acquire(timeout=_BUSY_S):
                raise busy
            try:
                yield
            finally:
                self._working.release()
        finally:
            self._places.release()


def _contrast(
    classifier: Classifier, image_bgr: NDArray[np.uint8], against: str | None, until_s: float
) -> Explanation | None:
    try:
        return explain_crop(
            classifier, image_bgr, against=against or RUNNER_UP, stopped=lambda: time.monotonic() > until_s
        )
    except ExplanationStoppedError:
        return None  # it would take too long: show the rest of the answer
    except InputError:
        if against is not None:
            raise
        return None  # nothing in the picture distinguishes the two classes


def _jpeg(image_bgr: NDArray[np.uint8]) -> bytes:
    done, data = cv2.imencode(".jpg", image_bgr, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    assert done, "OpenCV encodes every picture that it can decode"
    return bytes(data)


def routes(pages: Pages, content: Content) -> list[Route]:
    """Return the routes of explanations and uploaded pictures."""
    answers = Answers(content)

    def explained(request: Request) -> Response:
        visit = find_visit(content, request.path_params["id"])
        path = content.saved(visit.crop)
        if path is None:
            raise HTTPException(404, "This visit has no picture, so there is nothing to explain.")
        try:
            answer = answers.answer(lambda: read_image(path), request.query_params.get("against") or None)
        except InputError as error:
            raise HTTPException(400, str(error)) from error
        classifier = content.classifier()
        return pages.render(
            request,
            "explained.html",
            event=visit.event,
            answer=answer,
            classes=sorted(set(classifier.session.classes) - {answer.target}),
            other_model=classifier.session.sha256 != visit.event.classifier.sha256,
        )

    def empty(request: Request) -> Response:
        return pages.render(request, "try.html", max_mib=MAX_BODY_BYTES >> 20, answer=None, problem=None)

    def classified(request: Request, picture: UploadFile) -> Response:
        answer = problem = None
        name = picture.filename or "the picture"
        try:
            answer = answers.answer(lambda: decode_image(picture.file.read(), name, max_pixels=MAX_UPLOAD_PIXELS))
        except InputError as error:
            problem = str(error)
        status = 200 if problem is None else 400
        return pages.render(
            request, "try.html", status=status, max_mib=MAX_BODY_BYTES >> 20, answer=answer, problem=problem
        )

    async def upload(request: Request) -> Response:
        user_of(request)
        async with request.form(max_files=1, max_fields=4, max_part_size=MAX_BODY_BYTES) as form:
            picture = form.get("picture")
            if not isinstance(picture, UploadFile):
                raise HTTPException(400, "The form has no picture: choose one.")
            return await run_in_threadpool(classified, request, picture)

    def picture(request: Request) -> Response:
        data = answers.picture(request.path_params["id"], request.path_params["name"])
        if data is None:
            raise HTTPException(404, "This explanation has expired: reload its page.")
        return Response(data, media_type="image/jpeg")

    return [
        Route("/visits/{id}/explain", explained),
        Route("/try", empty),
        Route("/try", upload, methods=["POST"]),
        Route("/answers/{id}/{name}", picture),
    ]
