"""Which address counts as the client; test_ingress uses real connections."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from physiq_ray.config import LocalServingSettings, load_settings
from physiq_ray.errors import SettingError
from physiq_ray.serving.clients import name_client, parse_networks


def name(
    connection: str | None, *forwarded: str, peers: Sequence[str] = (), trusted: Sequence[str] = ()
) -> str:
    return name_client(connection, forwarded, peers, parse_networks(trusted))


@pytest.mark.parametrize(
    ("connection", "expected"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("::1", "::/64"),
        ("testclient", "unknown"),
        ("", "unknown"),
        (None, "unknown"),
    ],
)
def test_without_the_header_a_client_is_the_address_of_its_connection(
    connection: str | None, expected: str
) -> None:
    assert name(connection) == expected


@pytest.mark.parametrize(
    "claim",
    [
        "198.51.100.1",
        "198.51.100.1, 198.51.100.2",
        "[2001:db8::1]:443",
        "198.51.100.1:80",
        "unknown",
        ",",
        "",
    ],
)
def test_the_header_is_ignored_unless_a_trusted_proxy_wrote_it(claim: str) -> None:
    assert name("203.0.113.7", claim) == "203.0.113.7"
    assert name("203.0.113.7", claim, "192.0.2.1", trusted=["10.0.0.0/8"]) == "203.0.113.7"


@pytest.mark.parametrize(
    ("connection", "claim"),
    [
        ("198.51.100.1", "198.51.100.1"),
        ("198.51.100.1", "192.0.2.9, 198.51.100.1:5555"),
        ("2001:db8::1", "[2001:db8::1]:443"),
        ("198.51.100.1", "[198.51.100.1]:x"),
        ("unknown", "unknown"),
        ("[2001:db8::1", "[2001:db8::1"),
    ],
)
def test_an_address_that_uvicorn_took_from_the_header_counts_as_this_machine(
    connection: str, claim: str
) -> None:
    # uvicorn trusts connections from 127.0.0.1, and replaces their address by the one in the header.
    assert name(connection, claim) == "127.0.0.1"


@pytest.mark.parametrize(
    ("forwarded", "expected"),
    [
        (["203.0.113.7"], "203.0.113.7"),
        (["198.51.100.1, 203.0.113.7"], "203.0.113.7"),  # the client itself wrote the first
        (["198.51.100.1", "203.0.113.7"], "203.0.113.7"),
        (["198.51.100.1, 203.0.113.7, 10.1.2.3"], "203.0.113.7"),  # two proxies
        (["203.0.113.7:61000"], "203.0.113.7"),
        (["[2001:db8::7]:61000"], "2001:db8::/64"),
        (["203.0.113.7, unknown"], "10.0.0.1"),
        (["203.0.113.7, "], "10.0.0.1"),
        (["10.5.5.5, 10.1.2.3"], "10.5.5.5"),  # a proxy sent its own request
        ([], "10.0.0.1"),
    ],
)
def test_the_header_of_a_trusted_proxy_is_read_from_its_end(forwarded: Sequence[str], expected: str) -> None:
    assert name("10.0.0.1", *forwarded, trusted=["10.0.0.0/8", "127.0.0.1"]) == expected


def test_behind_haproxy_the_client_is_the_last_peer_that_it_names() -> None:
    assert name("127.0.0.1", peers=["203.0.113.7"]) == "203.0.113.7"
    assert name("127.0.0.1", "192.0.2.1", peers=["203.0.113.7"]) == "203.0.113.7"
    assert name("192.0.2.1", "192.0.2.1", peers=["192.0.2.9", "127.0.0.1"]) == "127.0.0.1"
    assert name("127.0.0.1", "192.0.2.1, 192.0.2.2", peers=["10.0.0.1"], trusted=["10.0.0.1"]) == "192.0.2.2"


ADDRESSES = st.one_of(st.ip_addresses().map(str), st.text(max_size=12), st.just("203.0.113.7"))


@given(st.lists(st.lists(ADDRESSES, max_size=3).map(",".join), max_size=3))
def test_for_any_header_the_client_is_the_connection_or_this_machine(forwarded: list[str]) -> None:
    assert name("203.0.113.7", *forwarded) in {"203.0.113.7", "127.0.0.1"}


@pytest.mark.parametrize("value", ["10.0.0.0/33", "proxy.example", "10.0.0.1-10.0.0.9", "*"])
def test_a_trusted_proxy_that_is_not_an_address_is_refused(value: str) -> None:
    with pytest.raises(SettingError, match=r"--trusted-proxies=.* is no address or network, such as 10"):
        load_settings({"trusted_proxies": ["10.0.0.1", value]}, kind=LocalServingSettings, environment={})


@pytest.mark.parametrize(
    ("value", "path"), [("", None), ("/", None), ("/poses", "/poses"), ("/a/b-1/", "/a/b-1")]
)
def test_the_path_of_the_service_ends_without_a_slash(value: str, path: str | None) -> None:
    settings = load_settings({"root_path": value}, kind=LocalServingSettings, environment={})

    assert settings.root_path == path


@pytest.mark.parametrize(
    "value", ["poses", "//evil.example", "/po ses", "/poses?x", "http://a/b", "/p/../q", "/%2e"]
)
def test_an_invalid_path_of_the_service_is_refused(value: str) -> None:
    with pytest.raises(SettingError, match=r"--root-path='.*a path starts with /"):
        load_settings({"root_path": value}, kind=LocalServingSettings, environment={})
