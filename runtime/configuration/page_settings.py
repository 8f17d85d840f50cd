"""Where and how the web page is served: the table `[page]` of `cameras.toml`."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, StringConstraints, ValidationError, model_validator

from twincar_edge.errors import InputError, first_fault
from twincar_edge.records import Record
from twincar_edge.runtime.listening import PAGE_ADDRESS, parse_address
from twincar_edge.runtime.quantities import ConfigPath


def _checked_address(address: str) -> str:
    try:
        parse_address(address)
    except InputError as error:
        raise ValueError(str(error)) from error
    return address


ServerAddress = Annotated[str, AfterValidator(_checked_address)]
"""`HOST:PORT` to serve at, checked when the configuration is read."""
HostName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9]([A-Za-z0-9.-]{0,252}[A-Za-z0-9])?$", to_lower=True)]


class PageSettings(Record):
    """How the web page is served.

    Attributes:
        address: `HOST:PORT`. On any other address than the loopback's, the page demands a token.
        tokens: demand a token on the loopback too, as behind a proxy.
        hosts: names by which browsers reach the page, beside this machine's own; requests for others are refused.
        root_path: the path in front of all of the page's, where a proxy puts it below one.
        certificate: a PEM file with the certificate and those that it rests on; with `key`, the page is served by
            HTTPS.
        key: a PEM file with the certificate's private key.
    """

    address: ServerAddress = PAGE_ADDRESS
    tokens: bool = False
    hosts: tuple[HostName, ...] = ()
    root_path: str = Field(default="", pattern=r"^(/[A-Za-z0-9_.~-]+)*$")
    certificate: ConfigPath | None = None
    key: ConfigPath | None = None

    @model_validator(mode="after")
    def _certificate_has_a_key(self) -> Self:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("a certificate needs its key, and a key its certificate: name both files")
        return self


def page_settings(**options: Any) -> PageSettings:
    """Return settings of the page.

    Raises:
        InputError: a value is not allowed.
    """
    try:
        return PageSettings(**options)
    except ValidationError as error:
        raise InputError(first_fault(error)) from error
