"""Records a user's judgment of a visit, from the visit's page or from the list of visits to check."""

from __future__ import annotations

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from twincar_edge.errors import InputError
from twincar_edge.runtime.page.content import Content
from twincar_edge.runtime.page.login import require_role
from twincar_edge.runtime.page.visits import find_visit
from twincar_edge.runtime.teaching.corrections import Kind
from twincar_edge.runtime.teaching.judging import JudgementRecorder

_KINDS: dict[str, Kind] = {"none": "no vehicle", "unclear": "unclear", "undo": "taken back"}


def routes(content: Content, recorder: JudgementRecorder) -> list[Route]:
    """Return the route of judgments."""

    async def judge(request: Request) -> Response:
        user = require_role(request, "teach").name
        form = await request.form(max_files=0, max_fields=8)
        fields = {name: str(form.get(name, "")) for name in ("verdict", "name", "answered", "back")}
        await run_in_threadpool(record, request.path_params["id"], user, fields)
        root = request.scope.get("root_path", "")
        target = "/teach/check" if fields["back"] == "check" else f"/visits/{request.path_params['id']}"
        return RedirectResponse(root + target, 303)

    def record(id: str, user: str, fields: dict[str, str]) -> None:
        visit = find_visit(content, id)
        event, picture, verdict = visit.event, content.saved(visit.crop), fields["verdict"]
        if fields["answered"] != event.name:
            raise HTTPException(409, f"The answer has changed to {event.name}: check the visit again.")
        try:
            if verdict == "right":
                recorder.confirm(event, picture, user)
            elif verdict == "name":
                recorder.name(event, picture, user, fields["name"])
            elif verdict in _KINDS:
                recorder.say(event, picture, user, _KINDS[verdict])
            else:
                raise HTTPException(400, f"Unknown verdict {verdict[:40]!r}.")
        except InputError as error:
            raise HTTPException(400, str(error)) from error

    return [Route("/visits/{id}/judgement", judge, methods=["POST"])]
