"""Why a visit was answered so, and pictures that people try: answered and explained by the model in use."""

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

_KEPT = 24  # answers whose pictures a browser may still fetch
_BUSY_S = 10.0
_LONGEST_S = 10.0  # of a comparison, which runs the model some 200 times
_QUALITY = 88  # of JPEGs


@dataclass(frozen=True)
class Answered:
    """An answer with its explanation.

    Attributes:
        id: a random name, by which the pictures are fetched.
        prediction: the answer.
        evidence: what speaks for the target.
        contrast: what speaks for the target rather than for another class; None where there is no other.
        pictures: JPEGs by name.
    """

    id: str
    prediction: Prediction
    evidence: Explanation
    contrast: Explanation | None
    pictures: dict[str, bytes]


class Answers:
    """Answers and explains pictures, one at a time, and keeps the newest for browsers to fetch their pictures."""

    def __init__(self, content: Content) -> None:
        """Take what gives the model in use."""
        self._content = content
        self._kept: OrderedDict[str, Answered] = OrderedDict()
        self._lock = threading.Lock()
        self._working = threading.Lock()

    def answer(self, image_bgr: NDArray[np.uint8], against: str | None = None) -> Answered:
        """Answer and explain a picture.

        Args:
            image_bgr: uint8 [H, W, 3].
            against: the class to compare the answer with; None for the best one of the others.

        Raises:
            HTTPException: the page has been busy with others for too long.
            InputError: the class is not known.
            ModelError: the model fails.
        """
        with self._turn():
            classifier = self._content.classifier()
            evidence = explain_crop(classifier, image_bgr)
            contrast = None
            if len(classifier.session.classes) > 1:
                contrast = _contrast(classifier, image_bgr, against, time.monotonic() + _LONGEST_S)
        pictures = {"picture": _jpeg(image_bgr), "evidence": _jpeg(evidence.overlay_bgr)}
        if contrast is not None:
            pictures["contrast"] = _jpeg(contrast.overlay_bgr)
        answered = Answered(secrets.token_urlsafe(12), evidence.prediction, evidence, contrast, pictures)
        with self._lock:
            self._kept[answered.id] = answered
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return answered

    def picture(self, answer: str, name: str) -> bytes | None:
        """Return a picture of an answer, or None if it is kept no longer."""
        with self._lock:
            kept = self._kept.get(answer)
        return None if kept is None else kept.pictures.get(name)

    @contextmanager
    def _turn(self) -> Iterator[None]:
        if not self._working.acquire(timeout=_BUSY_S):
            raise HTTPException(503, "The page is busy with other explanations: try again in a while.")
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
        return None  # the box is busy: the rest of the answer is worth more than waiting
    except InputError:
        if against is not None:
            raise
        return None  # nothing in the picture tells the two apart


def _jpeg(image_bgr: NDArray[np.uint8]) -> bytes:
    done, data = cv2.imencode(".jpg", image_bgr, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    assert done, "OpenCV encodes every picture that it has decoded"
    return bytes(data)


def routes(pages: Pages, content: Content) -> list[Route]:
    """Return the routes of explanations and tried pictures."""
    answers = Answers(content)

    def explained(request: Request) -> Response:
        visit = find_visit(content, request.path_params["id"])
        path = content.saved(visit.crop)
        if path is None:
            raise HTTPException(404, "No picture of this visit is kept, or no longer: there is nothing to explain.")
        try:
            found = answers.answer(read_image(path), request.query_params.get("against") or None)
        except InputError as error:
            raise HTTPException(400, str(error)) from error
        classifier = content.classifier()
        return pages.render(
            request,
            "explained.html",
            event=visit.event,
            found=found,
            classes=sorted(set(classifier.session.classes) - {found.evidence.target}),
            other_model=classifier.session.sha256 != visit.event.classifier.sha256,
        )

    def empty(request: Request) -> Response:
        return pages.render(request, "try.html", max_mib=MAX_BODY_BYTES >> 20, found=None, problem=None)

    def tried(request: Request, data: bytes, name: str) -> Response:
        found = problem = None
        try:
            found = answers.answer(decode_image(data, name, max_pixels=MAX_UPLOAD_PIXELS))
        except InputError as error:
            problem = str(error)
        status = 200 if problem is None else 400
        return pages.render(
            request, "try.html", status=status, max_mib=MAX_BODY_BYTES >> 20, found=found, problem=problem
        )

    async def upload(request: Request) -> Response:
        user_of(request)
        async with request.form(max_files=1, max_fields=4, max_part_size=MAX_BODY_BYTES) as form:
            picture = form.get("picture")
            if not isinstance(picture, UploadFile):
                raise HTTPException(400, "There is no picture in the form.")
            data = await picture.read()
        return await run_in_threadpool(tried, request, data, picture.filename or "the picture")

    def picture(request: Request) -> Response:
        data = answers.picture(request.path_params["id"], request.path_params["name"])
        if data is None:
            raise HTTPException(404, "This explanation is kept no longer: load its page again.")
        return Response(data, media_type="image/jpeg")

    return [
        Route("/visits/{id}/explain", explained),
        Route("/try", empty),
        Route("/try", upload, methods=["POST"]),
        Route("/answers/{id}/{name}", picture),
    ]
