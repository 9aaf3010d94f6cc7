"""The enclave's way out: each allow-list entry leads to one host and port, and never into the parent's own network (T22).

A name is resolved once per connection and every address judged before it is used, so that no name server can turn an
entry into a way to the instance metadata service or to a private neighbour.
"""

import asyncio
import ipaddress
import socket

from parent.config import Egress
from parent.dial import dial
from parent.errors import DialError, EgressRefusedError
from wire.endpoint import Tcp

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
ADDRESSES_MAX = 8  # tried in turn per connection
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_UNICAST = ipaddress.ip_network("2000::/3")  # what else of IPv6 is not handed out
_METADATA = frozenset(
    ipaddress.ip_address(text)
    for text in ("169.254.169.254", "169.254.169.253", "169.254.169.123", "169.254.170.2", "fd00:ec2::254", "fd00:ec2::253")
)


def embedded(address: Address) -> Address:
    """The IPv4 address that an IPv6 one stands for (mapped, NAT64, 6to4, Teredo), or the address itself."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    if address.teredo is not None:
        return address.teredo[1]
    return address.ipv4_mapped or address.sixtofour or address


def permitted(entry: Egress, address: Address) -> bool:
    """Whether the entry may lead to this address.

    The metadata service and its siblings: never. Global addresses: always. Others only where the operator named this
    very address, as the entry's host or in its `private` list.
    """
    real = embedded(address)
    if real in _METADATA:
        return False
    if _public(address):
        return True
    named = [*entry.private]
    if _literal(entry.host) is not None:
        named.append(entry.host)
    networks = [ipaddress.ip_network(item) for item in named]
    return any(network.version == real.version and real in network for network in networks)


def _public(address: Address) -> bool:
    """A global address, in IPv6's own space or as IPv4, which NAT64 and the mapped form stand for; 6to4 and Teredo are given up."""
    if isinstance(address, ipaddress.IPv4Address):
        return address.is_global and not address.is_multicast
    if address in _NAT64 or address.ipv4_mapped is not None:
        return _public(embedded(address))
    return address in _UNICAST and embedded(address) == address and address.is_global


def _literal(host: str) -> Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


async def resolve(host: str, port: int, *, seconds: float) -> tuple[Address, ...]:
    """The host's addresses, in the resolver's order. Raises: DialError."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(seconds):
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, TimeoutError, UnicodeError) as error:
        raise DialError(f"{host} does not resolve: {type(error).__name__}") from None
    return tuple(dict.fromkeys(ipaddress.ip_address(str(item[4][0]).partition("%")[0]) for item in found))


async def reach(entry: Egress, *, seconds: float) -> socket.socket:
    """A connection to the entry's host. Raises: EgressRefusedError where none of its addresses may be used; DialError."""
    addresses = [address for address in await resolve(entry.host, entry.port, seconds=seconds) if permitted(entry, address)]
    if not addresses:
        raise EgressRefusedError(f"{entry.host} resolves to addresses that the entry may not lead to")
    last = DialError("no address")
    for address in addresses[:ADDRESSES_MAX]:
        try:
            return await dial(Tcp(str(address), entry.port), seconds=seconds)
        except DialError as error:
            last = error
    raise last
