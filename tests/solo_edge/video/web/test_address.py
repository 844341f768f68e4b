from __future__ import annotations

import socket

import pytest

from solo_edge.errors import ResourceError, UsageError
from solo_edge.video.web.address import Address, base_url, is_loopback, listen, parse_address


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:8080", Address("127.0.0.1", 8080)),
        (" localhost:0 ", Address("localhost", 0)),
        ("jetson-1.local:65535", Address("jetson-1.local", 65535)),
        ("[::1]:80", Address("::1", 80)),
    ],
)
def test_addresses_are_read(text, expected):
    assert parse_address(text) == expected


@pytest.mark.parametrize(
    "text", ["", "8080", ":8080", "host", "host:", "host:65536", "::1:80", "a b:1"]
)
def test_other_texts_are_refused_in_one_line(text):
    with pytest.raises(UsageError, match="HOST:PORT"):
        parse_address(text)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost", "LOCALHOST."])
def test_names_of_this_machine_alone(host):
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "192.168.0.4", "localhost.example.org", "jetson"]
)
def test_addresses_that_others_can_reach(host):
    assert not is_loopback(host)


def test_a_port_that_is_taken_is_told():
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ResourceError, match=rf"^127.0.0.1:{port}: another program .*; choose"):
            listen(Address("127.0.0.1", port))


def test_an_address_of_another_machine_is_told():
    with pytest.raises(UsageError, match="no such address"):
        listen(Address("192.0.2.7", 0))


def test_a_name_that_nobody_knows_is_told():
    with pytest.raises(UsageError, match="no such address"):
        listen(Address("no-such-host.invalid", 0))


def test_for_all_networks_the_url_names_this_machine():
    url = base_url(Address("0.0.0.0", 0), 8080)
    assert url.startswith("http://")
    assert url.endswith(":8080/")
    assert "0.0.0.0" not in url


def test_the_url_of_an_ipv6_address_has_brackets():
    assert base_url(Address("::1", 0), 81) == "http://[::1]:81/"
