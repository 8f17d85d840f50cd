"""Describes failed connections in a few words."""

from __future__ import annotations

import ssl
import urllib.error


def connection_problem(error: Exception) -> str:
    """Return why a connection failed. The text never contains anything that the server sent.

    Args:
        error: an OSError, such as urllib's URLError, or an `http.client.HTTPException`.
    """
    if isinstance(error, urllib.error.URLError):
        return connection_problem(error.reason) if isinstance(error.reason, Exception) else str(error.reason)
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message}"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    return f"invalid HTTP response ({type(error).__name__})"
