"""Downloads one file over HTTPS, bounded in bytes and time."""

from __future__ import annotations

import http.client
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import IO
from urllib.parse import urlsplit

from twincar_edge._version import __version__
from twincar_edge.errors import InputError
from twincar_edge.runtime.connection import connection_problem

_CHUNK = 2**16


def download(
    url: str,
    size_bytes: int,
    *,
    wait_s: float = 30.0,
    limit_s: float = 600.0,
    context: ssl.SSLContext | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> bytes:
    """Return a file of a known size.

    Redirects are followed, but only to https://. Proxies are those of the environment (`https_proxy`, `no_proxy`).

    Args:
        url: where it is.
        size_bytes: its size; a response of another size is refused, and a longer one is not read to its end.
        wait_s: timeout for connecting, and for each read.
        limit_s: deadline of the whole download.
        context: certificates to trust instead of the system's.
        clock: seconds.

    Raises:
        InputError: the download failed. The message has the reason.
    """
    handlers: list[urllib.request.BaseHandler] = [_RedirectsToHttps()]
    if context is not None:
        handlers.append(urllib.request.HTTPSHandler(context=context))
    request = urllib.request.Request(url, headers={"User-Agent": f"twincar-edge/{__version__}"})
    end_s = clock() + limit_s
    data = bytearray()
    try:
        with urllib.request.build_opener(*handlers).open(request, timeout=wait_s) as response:
            while len(data) <= size_bytes and (part := response.read1(_CHUNK)):
                data += part
                if clock() > end_s:
                    raise InputError(f"cannot download {url}: it takes longer than {limit_s:g} s")
    except urllib.error.HTTPError as error:
        error.close()
        reason = http.client.responses.get(error.code, "")
        raise InputError(f"cannot download {url}: the server answers {error.code} {reason}".rstrip()) from error
    except (OSError, http.client.HTTPException) as error:
        raise InputError(f"cannot download {url}: {connection_problem(error)}") from error
    except ValueError as error:  # of urllib, for a redirect to what is no URL
        raise InputError(f"cannot download {url}: the server's response is malformed") from error
    if len(data) > size_bytes:
        raise InputError(f"cannot download {url}: the answer is longer than the file, which has {size_bytes} bytes")
    if len(data) < size_bytes:
        raise InputError(f"cannot download {url}: the answer ended after {len(data)} of {size_bytes} bytes; try again")
    return bytes(data)


class _RedirectsToHttps(urllib.request.HTTPRedirectHandler):
    """Follows redirects to https:// only."""

    max_redirections = 5

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        """Return the next request.

        Raises:
            InputError: the redirect leaves HTTPS.
        """
        scheme, host = urlsplit(newurl)[:2]
        if scheme != "https":
            fp.close()
            # Host only: the rest may contain a signature that grants access.
            raise InputError(
                f"cannot download {req.full_url}: it redirects to {scheme}://{host.rpartition('@')[2]}, not to https"
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)
