"""Serves the page with uvicorn in a separate thread, with or without a running loop."""

from __future__ import annotations

import logging
import threading
from contextlib import ExitStack
from types import TracebackType
from typing import Self

import uvicorn

from twincar_edge.errors import InputError
from twincar_edge.files import is_file
from twincar_edge.runtime.configuration.page_settings import PageSettings
from twincar_edge.runtime.listening import is_loopback, listen
from twincar_edge.runtime.page.app import make_app
from twincar_edge.runtime.page.connections import MAX_CLIENTS, LimitedServer, Protocol
from twincar_edge.runtime.page.content import Content
from twincar_edge.runtime.page.feed import VisitFeed
from twincar_edge.runtime.page.guard import own_url
from twincar_edge.runtime.page.streaming import Streams
from twincar_edge.runtime.page.tokens import OWNER, Tokens

logger = logging.getLogger(__name__)

_MAX_REQUESTS = 2 * MAX_CLIENTS  # more get status 503; requests of disconnected clients may still run
_SHUTDOWN_S = 1  # timeout for the last responses when the page ends


class PageServer:
    """Serves the page while the block runs.

    Attributes:
        url: the page's URL, ending in a slash.
        first_token: the token that was created because there was none; otherwise None. It is stored nowhere: show it.
    """

    def __init__(self, content: Content, settings: PageSettings) -> None:
        """Prepare, without listening yet.

        Args:
            content: the data that the page shows.
            settings: the address and the options of the server.
        """
        self.url = ""
        self.first_token: str | None = None
        self._content = content
        self._settings = settings
        self._streams = Streams()
        self._feed = VisitFeed(content.store)
        self._running = ExitStack()
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        """Start serving.

        Raises:
            InputError: the address, the certificate or the state folder cannot be used.
        """
        settings = self._settings
        for file in (settings.certificate, settings.key):
            if file is not None and not is_file(file):
                raise InputError(f"cannot serve the page over HTTPS: no such file {file}")
        listener = listen(settings.address, "the page")
        try:
            bound, port = listener.getsockname()[:2]
            tokens = Tokens(self._content.state) if self._settings.tokens or not is_loopback(bound) else None
            config = uvicorn.Config(
                make_app(
                    self._content,
                    settings,
                    bound=bound,
                    tokens=tokens,
                    streams=self._streams,
                    feed=self._feed,
                ),
                http=Protocol,
                ws="none",
                lifespan="off",
                log_config=None,
                log_level="error",  # invalid requests are not worth a log line
                access_log=False,
                server_header=False,
                root_path=settings.root_path,
                proxy_headers=tokens is not None,
                limit_concurrency=_MAX_REQUESTS,
                timeout_graceful_shutdown=_SHUTDOWN_S,
                ssl_certfile=settings.certificate,
                ssl_keyfile=settings.key,
            )
            try:
                config.load()
            except OSError as error:  # `ssl.SSLError` is one
                raise InputError(f"cannot serve the page over HTTPS: {error.strerror or error}") from error
            if tokens is not None and not tokens.all():  # last, because it is only shown if the page starts
                self.first_token = tokens.add(OWNER, "teach")
        except BaseException:
            listener.close()
            raise
        self._running.enter_context(self._feed)
        self._server = LimitedServer(config)
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [listener]}, name="page", daemon=True
        )
        self._thread.start()
        self.url = own_url(bound, port, https=settings.certificate is not None)
        logger.debug("serving the page at %s", self.url)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop listening, end all responses, and wait for the thread."""
        if self._server is not None and self._thread is not None:
            self._streams.close()
            self._server.should_exit = True
            self._thread.join()
            self._running.close()
