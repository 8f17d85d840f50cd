"""An S3 server on loopback: moto's, which pyarrow's client uses over HTTP."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest


class S3Server:
    """A running server."""

    def __init__(self, port: int, filesystem: Any) -> None:
        self.port = port
        self.filesystem = filesystem

    def url(self, path: str) -> str:
        """Return the URL of a path in a bucket, as a user writes it."""
        return f"s3://{path}?endpoint_override=http://127.0.0.1:{self.port}&region=us-east-1"

    def put(self, path: str, data: bytes) -> None:
        """Write an object."""
        with self.filesystem.open_output_stream(path) as stream:
            stream.write(data)

    @contextmanager
    def requiring_credentials(self) -> Iterator[None]:
        """Refuse requests without valid credentials inside the block."""
        self._requests_without_rights(0)
        try:
            yield
        finally:
            self._requests_without_rights(10**9)

    def _requests_without_rights(self, count: int) -> None:
        url = f"http://127.0.0.1:{self.port}/moto-api/reset-auth"
        request = urllib.request.Request(url, str(count).encode(), {"Content-Type": "text/plain"})
        urllib.request.urlopen(request, timeout=10).close()


@contextmanager
def s3_server() -> Iterator[S3Server]:
    """Run a server until the block ends; skip the test if moto is not installed."""
    server_module = pytest.importorskip("moto.server", exc_type=ImportError)
    fs = pytest.importorskip("pyarrow.fs")
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        _, port = server.get_host_and_port()
        filesystem = fs.S3FileSystem(
            access_key="test",
            secret_key="test",
            region="us-east-1",
            endpoint_override=f"http://127.0.0.1:{port}",
            allow_bucket_creation=True,
        )
        yield S3Server(port, filesystem)
    finally:
        server.stop()
