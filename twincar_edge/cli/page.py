"""`twincar-edge page`: the web page over a store, without a camera loop in this process."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import click

from twincar_edge.cli.logs import log_to_stderr
from twincar_edge.cli.page_option import announce
from twincar_edge.cli.stopping import stop_signals
from twincar_edge.errors import require
from twincar_edge.runtime.listening import PAGE_ADDRESS

_PATH = click.Path(path_type=Path)


@click.command("page")
@click.argument("address", required=False, default=PAGE_ADDRESS, metavar="[HOST:PORT]")
@click.option("--store", type=_PATH, help="The store's file.  [default: the one in the state folder]")
@click.option("--folder", "folders", multiple=True, type=_PATH, help="A folder with pictures or clips of visits, "
              "beside the one in the state folder. Repeatable.")  # fmt: skip
@click.option("--state", type=_PATH, help="The state folder.  [default: $TWINCAR_STATE, or the system's]")
@click.option("--model", type=_PATH, help="Explain and classify with this .onnx file.  [default: the bundled model]")
@click.option("--tokens", is_flag=True, help="Demand a token on the loopback too, as behind a proxy.")
@click.option("--host", "hosts", multiple=True, metavar="NAME", help="A name by which browsers reach the page, beside "
              "this machine's own. Repeatable.")  # fmt: skip
@click.option("--root-path", default="", metavar="/PATH", help="Where a proxy puts the page below another.")
@click.option("--certificate", type=_PATH, help="Serve HTTPS with this certificate, a PEM file.")
@click.option("--key", type=_PATH, help="The certificate's private key, a PEM file.")
def command(
    address: str,
    store: Path | None,
    folders: tuple[Path, ...],
    state: Path | None,
    model: Path | None,
    **options: Any,
) -> None:
    """Serve the web page over the visits in a store, at HOST:PORT, until Ctrl-C.

    The `watch` that writes the store may run at the same time, and is not disturbed. Live pictures of its cameras are
    on its own page: `twincar-edge watch SOURCE --page`.
    """
    require("starlette", "page")
    from twincar_edge.runtime.configuration.page_settings import page_settings
    from twincar_edge.runtime.page.content import Content, OwnClassifier
    from twincar_edge.runtime.page.server import PageServer
    from twincar_edge.runtime.storage.state import StateFolder

    there = StateFolder(state)
    own = OwnClassifier(model)
    content = Content(store or there.store, there.folder, (there.pictures, *folders), own, use_model=own.use)
    stop = threading.Event()
    settings = page_settings(address=address, **options)
    with log_to_stderr(), stop_signals(stop), PageServer(content, settings) as page:
        announce(page)
        stop.wait()
