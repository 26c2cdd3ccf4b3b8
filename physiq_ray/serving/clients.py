"""Which client asks: the address of its connection, or what a trusted proxy says of it.

Anyone can write X-Forwarded-For into a request. It is read from its end, where the nearest proxy has written,
and only for as long as the address before is one of the trusted proxies'.
"""

import functools
import os
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

FORWARDED_FOR = "x-forwarded-for"
# Names the header in which this machine's HAProxy writes the address of its peer. The name is a secret of the
# service: no client can send that header itself, not even around HAProxy.
PEER_HEADER_VARIABLE = "PHYSIQ_PEER_HEADER"
LOOPBACK = IPv4Address("127.0.0.1")
# One customer has this much of the IPv6 addresses, and could take another one for each request.
IPV6_PREFIX = 64


def peer_header() -> str | None:
    """Give the name of the header that this machine's HAProxy adds; None: there is no such HAProxy."""
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

    connection: the host that the server gives; forwarded: the values of X-Forwarded-For in their order;
    peers: those of the header that this machine's HAProxy adds.
    Returns an IPv4 address, the /64 network of an IPv6 address, or "unknown".
    """
    hops = [hop for value in forwarded for hop in value.split(",")]
    if peers:
        current = _parse(peers[-1])
    else:
        current = _parse(connection or "")
        # uvicorn puts what the header says in place of the address of a connection from this machine.
        if hops and (current is None or current in map(_parse, hops)):
            current = LOOPBACK
    if current is None:
        return "unknown"
    while hops and any(current in network for network in trusted):
        hop = _parse(hops.pop())
        if hop is None:
            break  # what lies behind it is not known: the last address that is
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
