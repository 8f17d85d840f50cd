from __future__ import annotations

import pytest

from twincar_edge.errors import InputError
from twincar_edge.runtime.listening import crowding, listen, parse_address


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
def test_what_is_no_address_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(InputError, match=r"HOST:PORT, such as 127\.0\.0\.1:9464"):
        parse_address(text)


@pytest.mark.parametrize("address", ["203.0.113.7:8600", "a..b:8600", "\udcff:8600"])
def test_a_host_that_is_not_this_machine_is_one_line(address: str) -> None:
    with pytest.raises(InputError, match=r"^cannot serve the page at [^\n]*; name another address$"):
        listen(address, "the page")


def test_an_address_in_use_is_one_line() -> None:
    with listen("127.0.0.1:0", "the page") as first:
        port = first.getsockname()[1]
        with pytest.raises(InputError, match=r"^cannot serve the page at [^\n]*in use; name another address$"):
            listen(f"127.0.0.1:{port}", "the page")


@pytest.mark.parametrize(
    ("addresses", "goes"),
    [(["a"], 0), (["a", "b", "b", "c"], 1), (["a", "b", "a", "b", "b"], 1), (["a", "b"], 0)],
)
def test_the_address_with_the_most_connections_loses_its_oldest(addresses: list[str], goes: int) -> None:
    assert crowding(addresses) == goes
