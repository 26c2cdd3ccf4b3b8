"""Proxies in the environment: which there are, and whether they take requests that no proxy can answer."""

import re
from collections.abc import Iterator
from urllib.request import (  # type: ignore[attr-defined]  # typeshed lacks the second
    getproxies_environment,
    proxy_bypass_environment,
)

from physiq_ray.doctor.finding import Finding, State

CHECK = "network"
# This machine's own services, and the service of EC2 that gives a role's credentials.
NEVER_PROXIED = ("127.0.0.1", "localhost", "169.254.169.254")


def check_proxies() -> Iterator[Finding]:
    """Name the proxies, without passwords, and the addresses that must not go through them but would."""
    proxies = getproxies_environment()
    named = [f"{name} {_hide_user(url)}" for name, url in sorted(proxies.items()) if name != "no"]
    if not named:
        yield Finding(CHECK, "proxies", State.OK, "none")
        return
    # All of them answer plain HTTP, so the proxy of https does not matter.
    taken = [host for host in NEVER_PROXIED if not proxy_bypass_environment(host, proxies)]
    text = ", ".join(named)
    if taken and {"http", "all"} & proxies.keys():
        yield Finding(
            *(CHECK, "proxies", State.WARNING, f"{text}; also for {', '.join(taken)}"),
            f"add them to the variable: NO_PROXY={','.join(filter(None, [proxies.get('no', ''), *taken]))}",
        )
    else:
        yield Finding(CHECK, "proxies", State.OK, text)


def _hide_user(url: str) -> str:
    """Replace user and password; a proxy may be given without a scheme."""
    return re.sub(r"^([\w+.-]+://)?.*@", r"\1***@", url)
