"""Teaching: naming unknown vehicles in groups, learning new classes, and measuring accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from twincar_edge.errors import InputError, TwincarError
from twincar_edge.files import is_file, sha256
from twincar_edge.runtime.page.content import Content
from twincar_edge.runtime.page.judgement_view import MAX_NAMES
from twincar_edge.runtime.page.login import require_role
from twincar_edge.runtime.page.rendering import Pages
from twincar_edge.runtime.page.visits import find_visit
from twincar_edge.runtime.sinks.store import EventFilter, StoredVisit, read_visits
from twincar_edge.runtime.sinks.store_sample import random_visits
from twincar_edge.runtime.sinks.visit_pages import read_one
from twincar_edge.runtime.sources.signature import Signature, signature_of
from twincar_edge.runtime.teaching.accuracy import measure
from twincar_edge.runtime.teaching.corrections import Judgement
from twincar_edge.runtime.teaching.groups import MAX_PICTURES, Grouping, Groups
from twincar_edge.runtime.teaching.judging import JudgementRecorder, check_name
from twincar_edge.runtime.teaching.learning import MIN_PICTURES, Learner, OtherRunError

SAMPLE_SIZE = 10  # visits that are open for judgment at a time
_MAX_GROUPS = 20
_MAX_THUMBNAILS = 60  # per group


def routes(pages: Pages, content: Content, recorder: JudgementRecorder) -> list[Route]:
    """Return the routes of teaching."""
    grouping = Grouping()
    learner = Learner(content.state)
    problem: list[str] = []  # the last error of switching to a new model, until it was shown

    def overview(request: Request) -> Response:
        judgements, drawn = recorder.corrections.newest(), recorder.corrections.drawn()
        sample = set(drawn)
        unknown = _unknown(content, judgements)
        groups, model_problem = _grouped(content, grouping, unknown)
        known = recorder.known()
        named = {
            name: paths for name, paths in recorder.pictures().items() if known is None or name not in known.classes
        }
        shown = problem.copy()
        problem.clear()
        return pages.render(
            request,
            "teach.html",
            sampled=measure(one for visit, one in judgements.items() if visit in sample),
            chosen=measure(one for visit, one in judgements.items() if visit not in sample),
            unjudged=len(_open(content, judgements, drawn)),
            groups=[[unknown[index] for index in one[:_MAX_THUMBNAILS]] for one in groups.groups[:_MAX_GROUPS]],
            sizes=[len(one) for one in groups.groups],
            rest=[unknown[index] for index in groups.rest[:_MAX_THUMBNAILS]],
            unknown=len(unknown),
            waiting=groups.waiting,
            note=groups.problem or model_problem,
            names=recorder.names()[:MAX_NAMES],
            learnable={name: len(paths) for name, paths in named.items() if len(paths) >= MIN_PICTURES},
            too_few=[name for name, paths in named.items() if len(paths) < MIN_PICTURES],
            lesson=learner.last_run,
            learned=learner.model if _is_in_use(content, learner.model) else None,
            problem=shown[0] if shown else None,
            labeled=recorder.labeled.classes,
        )

    async def name(request: Request) -> Response:
        user = require_role(request, "teach").name
        form = await request.form(max_files=0, max_fields=MAX_PICTURES + 8)
        visits = [str(value) for value in form.getlist("visit")]
        await run_in_threadpool(_name_all, content, recorder, visits, str(form.get("name", "")), user)
        return _redirect(request, "/teach")

    async def learn(request: Request) -> Response:
        user = require_role(request, "teach").name
        form = await request.form(max_files=0, max_fields=MAX_PICTURES)
        chosen = [str(value) for value in form.getlist("name")]

        def run() -> None:
            pictures = recorder.pictures()
            learner.learn(content.classifier().session, {one: pictures[one] for one in chosen if one in pictures}, user)

        await _run(run)
        return _redirect(request, "/teach")

    async def use(request: Request) -> Response:
        require_role(request, "teach")
        form = await request.form(max_files=0, max_fields=1)
        reviewed = str(form.get("sha256", ""))
        try:
            await run_in_threadpool(learner.use, reviewed, content.use_model, content.check_model)
        except OtherRunError as error:
            raise HTTPException(409, str(error)) from error
        except TwincarError as error:
            problem[:] = [str(error)]
        return _redirect(request, "/teach")

    def check(request: Request) -> Response:
        drawn = recorder.corrections.drawn()
        return pages.render(
            request,
            "check.html",
            visits=_open(content, recorder.corrections.newest(), drawn),
            names=recorder.names()[:MAX_NAMES],
            drawn=len(drawn),
        )

    async def draw(request: Request) -> Response:
        require_role(request, "teach")
        await run_in_threadpool(_draw, content, recorder)
        return _redirect(request, "/teach/check")

    return [
        Route("/teach", overview),
        Route("/teach/name", name, methods=["POST"]),
        Route("/teach/learn", learn, methods=["POST"]),
        Route("/teach/use", use, methods=["POST"]),
        Route("/teach/check", check),
        Route("/teach/check", draw, methods=["POST"]),
    ]


def _redirect(request: Request, path: str) -> Response:
    return RedirectResponse(request.scope.get("root_path", "") + path, 303)


async def _run(work: Any) -> None:
    try:
        await run_in_threadpool(work)
    except InputError as error:
        raise HTTPException(400, str(error)) from error


def _unknown(content: Content, judgements: dict[str, Judgement]) -> list[StoredVisit]:
    """Return the newest unknown visits that have a picture and no judgment, newest first."""
    if not is_file(content.store):
        return []
    wanted = EventFilter(levels=("unknown",), limit=MAX_PICTURES + len(judgements))
    found = [one for one in read_visits(content.store, wanted) if one.event.id not in judgements]
    return [one for one in reversed(found) if content.saved(one.crop) is not None][:MAX_PICTURES]


def _is_in_use(content: Content, model: Path) -> bool:
    """Return whether a file is the model in use. A loop that was restarted may use another one."""
    try:
        signature = signature_of(model) if is_file(model) else None
        return signature is not None and _digest(model, signature) == content.classifier().session.sha256
    except TwincarError:
        return False


@lru_cache(maxsize=1)
def _digest(model: Path, _signature: Signature) -> str:
    """Return a file's digest, computed once for each signature: a model may have hundreds of megabytes."""
    return sha256(model)


def _grouped(content: Content, grouping: Grouping, unknown: Sequence[StoredVisit]) -> tuple[Groups, str | None]:
    try:
        session = content.classifier().session
        return grouping.group(session, [one.crop for one in unknown if one.crop is not None]), None
    except TwincarError as error:
        return Groups([], list(range(len(unknown)))), str(error)


def _name_all(content: Content, recorder: JudgementRecorder, visits: Sequence[str], name: str, user: str) -> None:
    if not 1 <= len(visits) <= MAX_PICTURES:
        raise HTTPException(400, f"{len(visits)} pictures are selected: select 1 to {MAX_PICTURES}.")
    try:
        name = check_name(name)
        for visit in [find_visit(content, id) for id in visits]:  # find all before any is named
            recorder.name(visit.event, content.saved(visit.crop), user, name)
    except InputError as error:
        raise HTTPException(400, str(error)) from error


def _open(content: Content, judgements: dict[str, Judgement], drawn: Sequence[str]) -> list[StoredVisit]:
    """Return the drawn visits that have a picture and no judgment."""
    visits = (read_one(content.store, id) for id in drawn if id not in judgements)  # None if it was deleted since
    return [visit for visit in visits if visit is not None and content.saved(visit.crop) is not None]


def _draw(content: Content, recorder: JudgementRecorder) -> None:
    """Draw random visits until `SAMPLE_SIZE` are open for judgment.

    A draw may contain visits that a user has judged already, and their judgment counts. Users judge answers that look
    wrong, so leaving out such visits would overestimate the accuracy.
    """
    if not is_file(content.store):
        return
    judgements, drawn = recorder.corrections.newest(), recorder.corrections.drawn()
    missing, sample = SAMPLE_SIZE - len(_open(content, judgements, drawn)), set(drawn)
    new = []
    for id, picture in random_visits(content.store):
        if missing <= 0:
            break
        if id not in sample and content.saved(picture) is not None:
            new.append(id)
            missing -= id not in judgements
    recorder.corrections.draw(new)
