"""Egress reaches the listed host and nothing in the parent's own network (T22)."""

import asyncio
import ipaddress
import socket

from hypothesis import given
from hypothesis import strategies as st
import pytest

from parent.config import Egress
from parent.egress import embedded, permitted, reach, resolve
from parent.errors import DialError, EgressRefusedError
from tests.parent.streams import receive, run, send
from wire.endpoint import Unix

METADATA = (
    "169.254.169.254",
    "fd00:ec2::254",
    "169.254.170.2",
    "::ffff:169.254.169.254",
    "64:ff9b::a9fe:a9fe",
    "2002:a9fe:a9fe::1",
    "2001::5601:5601",
)
PRIVATE = [
    "127.0.0.1",
    "10.1.2.3",
    "172.16.0.1",
    "192.168.1.1",
    "169.254.1.1",
    "100.64.0.1",
    "198.18.0.1",
    "0.0.0.1",
    "224.0.0.1",
    "255.255.255.255",
    "::1",
    "::",
    "fe80::1",
    "fd12::1",
    "ff02::1",
    "::ffff:10.0.0.1",
    "::10.0.0.1",
    "64:ff9b::a00:1",
    "64:ff9b:1::a00:1",
    "2002:a00:1::1",
    "2001:db8::1",
    "2002:345e:501::1",
    "2001::cba1:fafe",
    "::52.94.5.1",
]


def entry(host: str = "kms.eu-central-1.amazonaws.com", *private: str, port: int = 443) -> Egress:
    return Egress(listen=Unix("unused"), host=host, port=port, private=private)


@pytest.mark.parametrize("address", METADATA)
def test_the_metadata_service_is_never_reached(address: str) -> None:
    """Not by name, not by its own address as host, not by a private list, in whatever notation."""
    for each in (entry(), entry(address), entry("kms", address), entry("kms", "128.0.0.0/1", "::/0")):
        assert not permitted(each, ipaddress.ip_address(address))


@pytest.mark.parametrize("address", PRIVATE)
def test_private_addresses_are_refused_for_a_name(address: str) -> None:
    """A listed name that resolves into the parent's network, or nowhere sensible, is refused."""
    assert not permitted(entry(), ipaddress.ip_address(address))


@pytest.mark.parametrize("address", ["52.94.5.1", "64:ff9b::345e:501", "::ffff:52.94.5.1", "2600:1f18::1"])
def test_global_addresses_are_reached(address: str) -> None:
    """In IPv4, IPv6, and where an IPv6 address stands for a global IPv4 one."""
    assert permitted(entry(), ipaddress.ip_address(address))


@given(st.ip_addresses())
def test_without_a_private_list_only_global_addresses_are_reached(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    """Whatever a name resolves to, what is permitted is global, and so is what it embeds."""
    if permitted(entry(), address):
        assert embedded(address).is_global


def test_an_operator_may_name_a_private_address() -> None:
    """A VPC endpoint's address, as host or in the private list, opens that address and no neighbour."""
    address, neighbour = ipaddress.ip_address("10.0.3.7"), ipaddress.ip_address("10.0.3.8")
    for each in (entry("10.0.3.7"), entry("kms", "10.0.3.7"), entry("kms", "10.0.3.6/31")):
        assert permitted(each, address)
        assert not permitted(each, neighbour)
    assert permitted(entry(), ipaddress.ip_address("52.94.5.1"))


def test_a_name_that_resolves_to_loopback_is_refused() -> None:
    """`localhost` as an allow-list entry leads nowhere, although something listens there."""

    async def body() -> None:
        with socket.create_server(("127.0.0.1", 0)) as server, pytest.raises(EgressRefusedError):
            await reach(entry("localhost", port=server.getsockname()[1]), seconds=5)

    run(body())


def test_a_named_address_is_reached_and_a_silent_one_is_an_error() -> None:
    """The entry's very address works; a port where nothing listens is DialError."""

    async def body() -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            stream = await reach(entry("127.0.0.1", port=port), seconds=5)
            other, _ = server.accept()
            other.setblocking(False)
            await send(stream, b"hello")
            assert await receive(other, 5) == b"hello"
            stream.close()
            other.close()
        with pytest.raises(DialError):
            await reach(entry("127.0.0.1", port=port), seconds=5)
        with pytest.raises(DialError):
            await resolve("no-such-host.invalid", 443, seconds=5)

    run(body())
    assert asyncio.iscoroutinefunction(reach)
