"""Explanations of visits and of uploaded pictures, by the model in use."""

from __future__ import annotations

import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
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
from twincar_edge.runtime.inference.answers import Prediction
from twincar_edge.runtime.inference.classifier import Classifier
from twincar_edge.runtime.page.content import Content
from twincar_edge.runtime.page.guard import MAX_BODY_BYTES
from twincar_edge.runtime.page.login import user_of
from twincar_edge.runtime.page.rendering import Pages
from twincar_edge.runtime.page.visits import find_visit

_CACHED = 24  # answers whose pictures a browser can still load
_BUSY_S = 10.0  # timeout for earlier explanations
_TIMEOUT_S = 10.0  # for a comparison, which runs the model about 200 times
_JPEG_QUALITY = 88


@dataclass(frozen=True)
class ExplainedAnswer:
    """An answer with its explanation.

    Attributes:
        id: a random name for the URLs of the pictures.
        prediction: the answer.
        evidence: the explanation of what supports the target.
        contrast: the explanation of what supports the target against another class; None if there is no other class.
        pictures: JPEGs by name.
    """

    id: str
    prediction: Prediction
    evidence: Explanation
    contrast: Explanation | None
    pictures: dict[str, bytes]


class Answers:
    """Answers and explains pictures, one at a time, and caches the newest results until browsers have loaded them."""

    def __init__(self, content: Content) -> None:
        """Prepare; `content` returns the model in use."""
        self._content = content
        self._cache: OrderedDict[str, ExplainedAnswer] = OrderedDict()
        self._lock = threading.Lock()
        self._working = threading.Lock()

    def answer(self, image_bgr: NDArray[np.uint8], against: str | None = None) -> ExplainedAnswer:
        """Answer and explain a picture.

        Args:
            image_bgr: uint8 [H, W, 3].
            against: the class to compare the answer with; None for the second-best one.

        Raises:
            HTTPException: other explanations took too long.
            InputError: the class is unknown.
            ModelError: the model fails.
        """
        with self._turn():
            classifier = self._content.classifier()
            evidence = explain_crop(classifier, image_bgr)
            contrast = None
            if len(classifier.session.classes) > 1:
                contrast = _contrast(classifier, image_bgr, against, time.monotonic() + _TIMEOUT_S)
        pictures = {"picture": _jpeg(image_bgr), "evidence": _jpeg(evidence.overlay_bgr)}
        if contrast is not None:
            pictures["contrast"] = _jpeg(contrast.overlay_bgr)
        answer = ExplainedAnswer(secrets.token_urlsafe(12), evidence.prediction, evidence, contrast, pictures)
        with self._lock:
            self._cache[answer.id] = answer
            while len(self._cache) > _CACHED:
                self._cache.popitem(last=False)
        return answer

    def picture(self, id: str, name: str) -> bytes | None:
        """Return a picture of an answer, or None if it is not in the cache."""
        with self._lock:
            cached = self._cache.get(id)
        return None if cached is None else cached.pictures.get(name)

    @contextmanager
    def _turn(self) -> Iterator[None]:
        if not self._working.acquire(timeout=_BUSY_S):
            raise HTTPException(503, "The page is busy with other explanations: try again later.")
        try:
            yield
        finally:
            self._working.release()


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
            answer = answers.answer(read_image(path), request.query_params.get("against") or None)
        except InputError as error:
            raise HTTPException(400, str(error)) from error
        classifier = content.classifier()
        return pages.render(
            request,
            "explained.html",
            event=visit.event,
            answer=answer,
            classes=sorted(set(classifier.session.classes) - {answer.evidence.target}),
            other_model=classifier.session.sha256 != visit.event.classifier.sha256,
        )

    def empty(request: Request) -> Response:
        return pages.render(request, "try.html", max_mib=MAX_BODY_BYTES >> 20, answer=None, problem=None)

    def classified(request: Request, data: bytes, name: str) -> Response:
        answer = problem = None
        try:
            answer = answers.answer(decode_image(data, name, max_pixels=MAX_UPLOAD_PIXELS))
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
            data = await picture.read()
        return await run_in_threadpool(classified, request, data, picture.filename or "the picture")

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
