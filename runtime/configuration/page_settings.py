"""Settings of the web page: the table `[page]` of `cameras.toml`."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import AfterValidator, StringConstraints, model_validator

from twincar_edge.errors import InputError
from twincar_edge.records import Settings, in_words
from twincar_edge.runtime.listening import PAGE_ADDRESS, parse_address
from twincar_edge.runtime.quantities import ConfigPath


def _checked_address(address: str) -> str:
    try:
        parse_address(address)
    except InputError as error:
        raise ValueError(str(error)) from error
    return address


ServerAddress = Annotated[str, AfterValidator(_checked_address)]
"""The address `HOST:PORT` of a server, checked when the configuration is read."""
HostName = Annotated[
    str,
    StringConstraints(pattern=r"^[A-Za-z0-9]([A-Za-z0-9.-]{0,252}[A-Za-z0-9])?$", to_lower=True),
    in_words("a host name alone, such as box.example.org"),
]
PathPrefix = Annotated[
    str,
    StringConstraints(pattern=r"^(/[A-Za-z0-9_.~-]+)*$"),
    in_words("a path that begins with / and does not end with it"),
]


class PageSettings(Settings):
    """How to serve the web page.

    Attributes:
        address: `HOST:PORT`. On any address other than the loopback, the page requires a token.
        tokens: require a token on the loopback too, for example behind a proxy.
        hosts: additional host names of the page; requests for other names are refused.
        root_path: the path prefix under which a proxy serves the page.
        certificate: a PEM file with the certificate and its chain; with `key`, the page uses HTTPS.
        key: a PEM file with the certificate's private key.
    """

    address: ServerAddress = PAGE_ADDRESS
    tokens: bool = False
    hosts: tuple[HostName, ...] = ()
    root_path: PathPrefix = ""
    certificate: ConfigPath | None = None
    key: ConfigPath | None = None

    @model_validator(mode="after")
    def _certificate_has_a_key(self) -> Self:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("`certificate` and `key` belong together: set both")
        return self
