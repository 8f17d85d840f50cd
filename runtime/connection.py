"""Why a connection failed, in a few words for a person."""

from __future__ import annotations

import ssl


def connection_problem(error: Exception) -> str:
    """Return what failed, without text from the other side.

    Args:
        error: an OSError, or an `http.client.HTTPException`.
    """
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message}"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    return f"it does not speak HTTP ({type(error).__name__})"
