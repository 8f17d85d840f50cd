"""`twincar-edge page`: serve the web page of a store, without a camera loop in this process."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import click

from twincar_edge.cli.commands import Command
from twincar_edge.cli.logs import log_to_stderr
from twincar_edge.cli.options import check_needs
from twincar_edge.cli.page_option import announce
from twincar_edge.cli.stopping import stop_signals
from twincar_edge.errors import require
from twincar_edge.runtime.listening import PAGE_ADDRESS

_PATH = click.Path(path_type=Path)


@click.command("page", cls=Command)
@click.argument("address", required=False, default=PAGE_ADDRESS, metavar="[HOST:PORT]")
@click.option("--store", type=_PATH, help="Show the visits in this database.  [default: the one in the state folder]")
@click.option("--folder", "folders", multiple=True, type=_PATH, help="Also serve pictures and clips of visits from "
              "this folder. Repeatable.")  # fmt: skip
@click.option("--state", type=_PATH, help="Use this state folder.  [default: $TWINCAR_STATE, or the system's]")
@click.option("--model", type=_PATH, help="Explain and classify with this .onnx file.  [default: the bundled model]")
@click.option("--tokens", is_flag=True, help="Require a token on the loopback too, for a page behind a proxy.")
@click.option("--host", "hosts", multiple=True, metavar="NAME", help="Also accept requests for this host name, "
              "not only this machine's own. Repeatable.")  # fmt: skip
@click.option(
    "--root-path", default="", metavar="/PATH", help="Serve the page below this URL path, as mapped by a proxy."
)
@click.option("--certificate", type=_PATH, help="Serve HTTPS with this certificate, a PEM file.")
@click.option("--key", type=_PATH, help="Use this private key of the certificate, a PEM file.")
def command(
    address: str,
    store: Path | None,
    folders: tuple[Path, ...],
    state: Path | None,
    model: Path | None,
    **options: Any,
) -> None:
    """Serve a web page with the stored visits at HOST:PORT, until Ctrl-C.

    The `watch` that writes the store can run at the same time. For live pictures of its cameras, use its own page:
    `twincar-edge watch SOURCE --page`.
    """
    check_needs({"certificate": ("key",), "key": ("certificate",)})
    require("starlette", "page")
    from twincar_edge.runtime.configuration.page_settings import PageSettings
    from twincar_edge.runtime.page.content import Content, OwnClassifier
    from twincar_edge.runtime.page.server import PageServer
    from twincar_edge.runtime.storage.state import StateFolder

    there = StateFolder(state)
    own = OwnClassifier(model)
    content = Content(store or there.store, there.folder, (there.pictures, *folders), own, use_model=own.use)
    stop = threading.Event()
    settings = PageSettings(address=address, **options)
    with log_to_stderr(), stop_signals(stop), PageServer(content, settings) as page:
        announce(page)
        stop.wait()
