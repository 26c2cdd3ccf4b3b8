import hmac
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from replica import Clock

from physiq_ray.errors import ServingError
from physiq_ray.serving.access import MAX_CLIENTS, RateLimit, Tokens, is_allowed

FIRST, SECOND, THIRD = "first-token-0123456789", "second-token-0123456789", "third-token-0123456789"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "tokens.txt"
    path.write_text(f"{FIRST}\n{SECOND}\n")
    return path


# Tokens


def test_without_the_setting_no_token_is_required() -> None:
    assert Tokens(None).is_open


def test_each_token_of_the_file_has_a_name_that_is_not_the_token(file: Path, clock: Clock) -> None:
    tokens = Tokens(str(file), clock=clock)

    assert not tokens.is_open
    assert tokens.find(f"Bearer {FIRST}")[0] == "token 1"
    assert tokens.find(f"Bearer {SECOND}")[0] == "token 2"


def test_comments_empty_lines_and_spaces_around_a_token_are_ignored(tmp_path: Path) -> None:
    path = tmp_path / "tokens.txt"
    path.write_text(f"# for the coaches\n\n  {FIRST}  \r\n# for the scales\n{SECOND}\n")

    tokens = Tokens(str(path))

    assert tokens.find(f"Bearer {FIRST}")[0] == "token 1"
    assert tokens.find(f"Bearer {SECOND}")[0] == "token 2"


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        FIRST,
        f"Basic {FIRST}",
        f"Token {FIRST}",
        f"Bearer {FIRST[:-1]}",
        f"Bearer {FIRST}x",
        f"Bearer {FIRST.upper()}",
        f"Bearer {FIRST} {SECOND}",
        f"Bearer {FIRST},{SECOND}",
        f"Bearer {FIRST}\n{SECOND}",
        "Bearer é\xff",
        "Bearer token 1",
        "Bearer # for the coaches",
    ],
)
def test_a_header_that_is_not_exactly_bearer_and_a_token_is_refused(
    file: Path, authorization: str | None
) -> None:
    assert Tokens(str(file)).find(authorization)[0] is None


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_the_scheme_is_accepted_in_upper_and_lower_case(file: Path, scheme: str) -> None:
    assert Tokens(str(file)).find(f"{scheme} {FIRST}")[0] == "token 1"


def test_a_token_added_to_the_file_is_accepted_after_five_seconds(file: Path, clock: Clock) -> None:
    tokens = Tokens(str(file), clock=clock)
    file.write_text(f"{FIRST}\n{SECOND}\n{THIRD}\n")

    clock.now_s += 4.9
    before = tokens.find(f"Bearer {THIRD}")[0]
    clock.now_s += 0.2
    after = tokens.find(f"Bearer {THIRD}")[0]

    assert before is None
    assert after == "token 3"


def test_a_token_removed_from_the_file_is_refused_after_five_seconds(file: Path, clock: Clock) -> None:
    tokens = Tokens(str(file), clock=clock)
    file.write_text(f"{SECOND}\n")

    clock.now_s += 4.9
    before = tokens.find(f"Bearer {FIRST}")[0]
    clock.now_s += 0.2
    after = tokens.find(f"Bearer {FIRST}")[0]

    assert before == "token 1"
    assert after is None
    assert tokens.find(f"Bearer {SECOND}")[0] == "token 1"


@pytest.mark.parametrize("content", [b"", b"# none\n", b"short\n", b"\xff\xfe\x00"], ids=repr)
def test_while_the_file_has_no_valid_token_the_previous_tokens_stay_valid(
    file: Path, clock: Clock, content: bytes
) -> None:
    tokens = Tokens(str(file), clock=clock)
    file.write_bytes(content)

    clock.now_s += 6

    assert tokens.find(f"Bearer {FIRST}")[0] == "token 1"
    assert tokens.find("Bearer short")[0] is None
    assert tokens.find("Bearer ")[0] is None


def test_while_the_file_is_missing_the_previous_tokens_stay_valid(file: Path, clock: Clock) -> None:
    tokens = Tokens(str(file), clock=clock)
    file.unlink()
    clock.now_s += 6
    while_lost = tokens.find(f"Bearer {FIRST}")[0]
    file.write_text(THIRD)
    clock.now_s += 6

    assert while_lost == "token 1"
    assert tokens.find(f"Bearer {FIRST}")[0] is None
    assert tokens.find(f"Bearer {THIRD}")[0] == "token 1"


def test_a_byte_order_mark_is_not_part_of_the_first_token(tmp_path: Path) -> None:
    path = tmp_path / "tokens.txt"
    path.write_text(FIRST, encoding="utf-8-sig")

    assert Tokens(str(path)).find(f"Bearer {FIRST}")[0] == "token 1"


def test_a_token_with_letters_outside_ascii_is_accepted_as_clients_send_it(tmp_path: Path) -> None:
    path = tmp_path / "tokens.txt"
    path.write_text("schlüssel-der-trainerin", encoding="utf-8")
    as_received = "Bearer schlüssel-der-trainerin".encode().decode(
        "latin-1"
    )  # as ASGI servers decode headers

    assert Tokens(str(path)).find(as_received)[0] == "token 1"


def test_a_missing_file_is_refused_at_start_with_the_name_of_the_setting(tmp_path: Path) -> None:
    path = tmp_path / "tokens.txt"

    with pytest.raises(ServingError) as caught:
        Tokens(str(path))

    assert str(caught.value) == (
        f"tokens={path}: cannot be read: [Errno 2] No such file or directory: '{path}'"
    )


@pytest.mark.parametrize("setting", ["", "."])
def test_a_setting_that_names_no_file_does_not_start_an_open_service(setting: str) -> None:
    with pytest.raises(ServingError, match=r"^tokens=\.: cannot be read: "):
        Tokens(setting)


def test_a_file_without_a_token_is_refused_at_start_with_a_remedy(tmp_path: Path) -> None:
    path = tmp_path / "tokens.txt"
    path.write_text("# later\n")

    with pytest.raises(ServingError) as caught:
        Tokens(str(path))

    assert str(caught.value) == (
        f"tokens={path}: no token found; write one token per line, or leave out tokens"
    )


def test_the_error_for_a_short_token_gives_its_number_and_not_the_token(tmp_path: Path) -> None:
    path = tmp_path / "tokens.txt"
    path.write_text(f"{FIRST}\nhunter2\n")

    with pytest.raises(ServingError) as caught:
        Tokens(str(path))

    assert str(caught.value) == (
        f"tokens={path}: token 2 has fewer than 16 characters; make one with: "
        "python3 -c 'import secrets; print(secrets.token_urlsafe())'"
    )


@pytest.mark.parametrize(("length", "is_enough"), [(15, False), (16, True)])
def test_a_token_has_at_least_sixteen_characters(length: int, is_enough: bool) -> None:
    environment = {"PHYSIQ_TOKENS": "x" * length}

    if is_enough:
        assert Tokens("environment", environment=environment).find("Bearer " + "x" * 16)[0] == "token 1"
    else:
        with pytest.raises(ServingError, match="token 1 has fewer than 16 characters"):
            Tokens("environment", environment=environment)


def test_tokens_in_the_environment_are_separated_by_commas() -> None:
    tokens = Tokens("environment", environment={"PHYSIQ_TOKENS": f"{FIRST}, {SECOND},"})

    assert tokens.find(f"Bearer {FIRST}")[0] == "token 1"
    assert tokens.find(f"Bearer {SECOND}")[0] == "token 2"
    assert tokens.find(f"Bearer {FIRST}, {SECOND},")[0] is None


@pytest.mark.parametrize("environment", [{}, {"PHYSIQ_TOKENS": ""}, {"PHYSIQ_TOKENS": " , "}])
def test_an_environment_without_tokens_is_refused_with_the_name_of_the_variable(
    environment: dict[str, str],
) -> None:
    with pytest.raises(ServingError, match=r"^tokens=environment: PHYSIQ_TOKENS: no token found; "):
        Tokens("environment", environment=environment)


@pytest.mark.parametrize("given", [FIRST, SECOND, "wrong"])
def test_the_given_token_is_compared_with_every_token(
    file: Path, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    # The time of an answer must not reveal where in the file a token is. Only a count can show this.
    compared = []
    compare = hmac.compare_digest

    def count(one: bytes, other: bytes) -> bool:
        compared.append(other)
        return compare(one, other)

    tokens = Tokens(str(file))
    monkeypatch.setattr(hmac, "compare_digest", count)
    tokens.find(f"Bearer {given}")[0]

    assert compared == [FIRST.encode(), SECOND.encode()]


# Rates


def test_without_a_limit_all_requests_are_allowed(clock: Clock) -> None:
    rate = RateLimit(None, clock)

    assert {rate.wait_s("one") for _ in range(10_000)} == {0}


def test_a_client_may_send_the_requests_of_one_minute_at_once_and_no_more(clock: Clock) -> None:
    rate = RateLimit(30, clock)

    waits = [rate.wait_s("one") for _ in range(32)]

    assert waits == [0] * 30 + [2, 2]


@pytest.mark.parametrize(("per_minute", "wait_s"), [(1, 60), (7, 9), (60, 1), (1000, 1)])
def test_the_wait_is_the_whole_seconds_until_the_next_request_is_allowed(
    clock: Clock, per_minute: int, wait_s: int
) -> None:
    rate = RateLimit(per_minute, clock)
    for _ in range(per_minute):
        rate.wait_s("one")

    given_s = rate.wait_s("one")
    clock.now_s += given_s

    assert given_s == wait_s
    assert rate.wait_s("one") == 0


def test_a_client_that_sends_without_a_break_gets_the_rate_and_is_not_locked_out(clock: Clock) -> None:
    rate = RateLimit(60, clock)
    num_passed = 0

    for _ in range(6000):  # ten requests a second for ten minutes
        num_passed += rate.wait_s("one") == 0
        clock.now_s += 0.1

    assert num_passed in range(60 + 590, 60 + 601)


def test_after_an_idle_hour_only_the_requests_of_one_minute_are_allowed_at_once(clock: Clock) -> None:
    rate = RateLimit(10, clock)
    for _ in range(10):
        rate.wait_s("one")
    clock.now_s += 3600

    assert [rate.wait_s("one") for _ in range(11)] == [0] * 10 + [6]


def test_the_requests_of_each_client_are_counted_separately(clock: Clock) -> None:
    rate = RateLimit(1, clock)
    rate.wait_s("one")

    assert rate.wait_s("one") == 60
    assert rate.wait_s("other") == 0


def test_at_most_max_clients_are_remembered_and_the_oldest_is_forgotten_first(clock: Clock) -> None:
    rate = RateLimit(2, clock)
    for number in range(MAX_CLIENTS):
        rate.wait_s(f"address {number}")
    rate.wait_s("address 0")  # it is now the latest one

    for number in range(MAX_CLIENTS - 1):
        rate.wait_s(f"later {number}")

    assert rate.wait_s("address 0") == 30
    for forgotten in (f"address {MAX_CLIENTS - 1}", "address 1"):  # the latest and the oldest
        assert [rate.wait_s(forgotten) for _ in range(3)] == [0, 0, 30]  # as for a new client


# Addresses

ALLOWED = ("s3://athletes/open", "s3://whole", "s3://slashed/open/")


@pytest.mark.parametrize(
    "uri",
    [
        "s3://athletes/open/a.jpg",
        "s3://athletes/open/2024/05/a.jpg",
        "s3://athletes/open/with space, ümlaut, 写真 and 💪.jpg",
        "s3://athletes/open/a..jpg",
        "s3://athletes/open/.hidden.jpg",
        "s3://athletes/open/...",
        "s3://athletes/open/50%25?x=1#y.jpg",
        "s3://whole/a.jpg",
        "s3://whole/any/where/a.jpg",
        "s3://slashed/open/a.jpg",
    ],
)
def test_a_photo_below_an_allowed_address_may_be_read(uri: str) -> None:
    assert is_allowed(uri, ALLOWED)


@pytest.mark.parametrize(
    "uri",
    [
        "s3://athletes/opened/x.jpg",
        "s3://athletes/open.jpg",
        "s3://athletes/open",
        "s3://athletes/secret.jpg",
        "s3://athletes/Open/a.jpg",
        "s3://athletes//open/a.jpg",
        "s3://Athletes/open/a.jpg",
        "s3://athletes.evil/open/a.jpg",
        "s3://athletes@evil/open/a.jpg",
        "s3://evil/athletes/open/a.jpg",
        "s3://wholesale/a.jpg",
        "s3://slashed/opened/a.jpg",
        # addresses outside the prefix on servers that resolve keys
        "s3://athletes/open/../secret.jpg",
        "s3://athletes/open/./a.jpg",
        "s3://athletes/open/x/../../secret.jpg",
        "s3://athletes/open/..",
        "s3://athletes/open/x/.",
        "s3://athletes/../athletes/open/a.jpg",
        "s3://athletes/open/..\\secret.jpg",
        "s3://athletes/open\\a.jpg",
        # no key
        "s3://athletes",
        "s3://athletes/",
        "s3://whole",
        "s3://whole/",
        "s3://",
        "s3:///",
        "s3:///athletes/open/a.jpg",
        "",
        # characters that end a line, a string or a header
        "s3://athletes/open/a\0.jpg",
        "s3://athletes/open/a\n.jpg",
        "s3://athletes/open/a\r\nHost: evil",
        "s3://athletes/open/a\x7f.jpg",
        "s3://athletes/open/a\u202egpj.exe",
        "s3://athletes/open/a\ud800.jpg",
        # other schemes
        "S3://athletes/open/a.jpg",
        "s3:/athletes/open/a.jpg",
        "athletes/open/a.jpg",
        "/etc/passwd",
        "file:///etc/passwd",
        "file://athletes/open/a.jpg",
        "http://169.254.169.254/latest/meta-data",
        "http://athletes/open/a.jpg",
        "gopher://athletes/open/a.jpg",
        " s3://athletes/open/a.jpg",
        "s3://s3://athletes/open/a.jpg",
    ],
)
def test_an_address_outside_the_allowed_ones_may_not_be_read(uri: str) -> None:
    assert not is_allowed(uri, ALLOWED)


def test_without_an_allowed_address_nothing_may_be_read() -> None:
    assert not is_allowed("s3://athletes/open/a.jpg", ())


PARTS = st.sampled_from(
    [
        "s3://",
        "s3:",
        "/",
        "//",
        "athletes",
        "open",
        "opened",
        "..",
        ".",
        "a.jpg",
        "\\",
        "\0",
        "%2e%2e",
        "é",
        "?",
    ]
)


def leads_below_open(uri: str) -> bool:
    """Say whether a server that resolves a key as a path would find it below open/ in athletes."""
    address = uri.removeprefix("s3://").replace("\\", "/")
    resolved: list[str] = []
    for part in address.split("/"):
        if part == "..":
            resolved = resolved[:-1]
        elif part not in {"", "."}:
            resolved.append(part)
    return resolved[:2] == ["athletes", "open"]


@given(st.one_of(st.lists(PARTS, max_size=12).map("".join), st.text(max_size=40)))
@example("s3://athletes/open/a.jpg")
def test_an_allowed_address_is_below_the_prefix_even_if_a_server_resolves_its_key(uri: str) -> None:
    if is_allowed(uri, ["s3://athletes/open"]):
        assert uri.startswith("s3://athletes/open/")
        assert leads_below_open(uri)


@pytest.mark.slow
@given(
    prefix=st.lists(st.from_regex(r"[a-z0-9]{1,8}", fullmatch=True), max_size=3),
    key=st.lists(st.from_regex(r"[A-Za-z0-9 _é-]{1,8}", fullmatch=True), min_size=1, max_size=3),
)
def test_every_plain_key_below_a_prefix_is_allowed_and_none_outside_it(
    prefix: Sequence[str], key: Sequence[str]
) -> None:
    allowed = "/".join(["s3://athletes", *prefix])

    assert is_allowed("/".join([allowed, *key]), [allowed])
    assert not is_allowed("/".join([f"{allowed}x", *key]), [allowed])
