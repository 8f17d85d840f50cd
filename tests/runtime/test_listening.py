from __future__ import annotations

import pytest

from twincar_edge.errors import InputError
from twincar_edge.runtime.listening import connection_to_close, listen, parse_address


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:9464", ("127.0.0.1", 9464)),
        (":9464", ("127.0.0.1", 9464)),
        ("localhost:0", ("localhost", 0)),
        ("[::1]:9464", ("::1", 9464)),
    ],
)
def test_an_address_is_host_and_port(text: str, address: tuple[str, int]) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize("text", ["", "9464", "host", "host:", "host:x", "host:65536", "::1:9464", "[::1:9464", "a:-1"])
def test_an_invalid_address_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(InputError, match=r"HOST:PORT, such as 127\.0\.0\.1:9464"):
        parse_address(text)


@pytest.mark.parametrize("address", ["203.0.113.7:8600", "a..b:8600", "\udcff:8600"])
def test_an_address_of_another_machine_is_a_one_line_error(address: str) -> None:
    with pytest.raises(InputError, match=r"^cannot serve the page at [^\n]*; name another address$"):
        listen(address, "the page")


def test_an_address_in_use_is_a_one_line_error() -> None:
    with listen("127.0.0.1:0", "the page") as first:
        port = first.getsockname()[1]
        with pytest.raises(InputError, match=r"^cannot serve the page at [^\n]*in use; name another address$"):
            listen(f"127.0.0.1:{port}", "the page")


@pytest.mark.parametrize(
    ("addresses", "closed"),
    [(["a"], 0), (["a", "b", "b", "c"], 1), (["a", "b", "a", "b", "b"], 1), (["a", "b"], 0)],
)
def test_the_oldest_connection_of_the_busiest_address_is_closed(addresses: list[str], closed: int) -> None:
    assert connection_to_close(addresses) == closed
