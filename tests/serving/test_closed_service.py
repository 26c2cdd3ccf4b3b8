"""A service that requires tokens, next to one that requires none."""

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests
from replica import MakePhoto
from running import PAGE_TOKEN, REQUESTS_PER_MINUTE, TOKENS, ClosedService, RunningService

FIRST, SECOND, THIRD = TOKENS


@pytest.mark.long
def test_an_open_and_a_closed_service_on_one_machine_share_no_port(
    service: RunningService, closed_service: ClosedService
) -> None:
    # The system distributes the connections of a shared port: the open service would answer for the other.
    ports, closed_ports = (
        {port for _, port in each.listening()} for each in (service, closed_service.running)
    )

    assert service.port in ports
    assert not ports & closed_ports


@pytest.mark.long
def test_a_closed_service_requires_a_token_and_limits_the_requests_of_each(
    closed_service: ClosedService, make_photo: MakePhoto
) -> None:
    service = closed_service.running
    photo = make_photo(1, size=(32, 32))

    def send(authorization: str | None, **options: Any) -> requests.Response:
        headers = {} if authorization is None else {"Authorization": authorization}
        return service.post(photo, headers=headers, **options)

    for authorization in (
        None,
        "",
        "Bearer",
        "Bearer ",
        "Bearer wrong-token-0123456789",
        f"Bearer {FIRST}x",
        f"Bearer {FIRST[:-1]}",
        f"Basic {FIRST}",
        FIRST,
        "Bearer # of the gym",
    ):
        response = send(authorization)
        assert response.status_code == 401, authorization
        assert response.headers["www-authenticate"] == "Bearer"
        assert response.json() == {
            "error": {
                "code": "unauthorised",
                "message": "the bearer token is missing or wrong: Authorization: Bearer …",
            }
        }
    # A token in the address does not count. /v1/model requires one, too; a load balancer has none.
    assert send(None, params={"token": FIRST, "access_token": FIRST}).status_code == 401
    assert service.get("/v1/model").status_code == 401
    assert service.get("/healthz").status_code == 200
    assert service.get("/").status_code == 200

    assert send(f"Bearer {FIRST}").status_code == 200
    assert send(f"bearer {FIRST}").status_code == 200
    assert service.get("/v1/model", headers={"Authorization": f"Bearer {FIRST}"}).status_code == 200

    with ThreadPoolExecutor(8) as threads:
        statuses = Counter(
            response.status_code
            for response in threads.map(send, [f"Bearer {SECOND}"] * (3 * REQUESTS_PER_MINUTE))
        )
    # The requests of one minute, and one more for each two seconds that the requests took.
    assert statuses.keys() == {200, 429}
    assert REQUESTS_PER_MINUTE <= statuses[200] <= REQUESTS_PER_MINUTE + 10

    # While the last refused requests were held, one more may have become allowed.
    refused = next(
        response for response in (send(f"Bearer {SECOND}") for _ in range(2)) if response.status_code == 429
    )
    assert refused.headers["retry-after"] in {"1", "2"}
    assert refused.json()["error"]["code"] == "too_many_requests"
    assert send(f"Bearer {THIRD}").status_code == 200

    # A change of the file takes effect while the service runs.
    closed_service.tokens.write_text(f"{THIRD}\nfourth-token-0123456789\n{PAGE_TOKEN}\n")
    time.sleep(5.5)
    assert send(f"Bearer {FIRST}").status_code == 401
    assert send("Bearer fourth-token-0123456789").status_code == 200
