"""Which client sent a request: the address of its connection, or the address that a trusted proxy gives.

Anyone can write X-Forwarded-For into a request. Therefore it is read from its end, where the nearest proxy
wrote, and only as long as the address that wrote it is a trusted proxy.
"""

import functools
import os
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

FORWARDED_FOR = "x-forwarded-for"
# Names the header in which this machine's HAProxy writes the address of its peer. The name is a secret of the
# service, so that no client can send that header, even if it bypasses HAProxy.
PEER_HEADER_VARIABLE = "PHYSIQ_PEER_HEADER"
LOOPBACK = IPv4Address("127.0.0.1")
# A customer has a whole network of this size in IPv6, and could use another address for each request.
IPV6_PREFIX = 64


def peer_header() -> str | None:
    """Give the name of the header that this machine's HAProxy adds; None: no HAProxy runs here."""
    return os.environ.get(PEER_HEADER_VARIABLE)


def parse_networks(texts: Sequence[str]) -> tuple[Network, ...]:
    """Parse addresses and networks such as 10.0.0.0/8.

    Raises ValueError: one of them is neither.
    """
    return tuple(ip_network(text, strict=False) for text in texts)


def name_client(
    connection: str | None, forwarded: Sequence[str], peers: Sequence[str], trusted: Sequence[Network]
) -> str:
    """Name the client of a request by its address.

    connection: the host that the server reports. forwarded: the values of X-Forwarded-For in their order.
    peers: the values of the header that this machine's HAProxy adds.
    Returns an IPv4 address, the /64 network of an IPv6 address, or "unknown".
    """
    hops = [hop for value in forwarded for hop in value.split(",")]
    if peers:
        current = _parse(peers[-1])
    else:
        current = _parse(connection or "")
        # For a connection from this machine, uvicorn replaces its address by one from the header.
        if hops and (current is None or current in map(_parse, hops)):
            current = LOOPBACK
    if current is None:
        return "unknown"
    while hops and any(current in network for network in trusted):
        hop = _parse(hops.pop())
        if hop is None:
            break  # not an address: the last known one counts
        current = hop
    if isinstance(current, IPv6Address):
        return str(ip_network((current.packed, IPV6_PREFIX), strict=False))
    return str(current)


@functools.lru_cache(maxsize=1024)
def _parse(text: str) -> Address | None:
    """Parse an address as proxies write it: alone, with a port, or in brackets."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
