"""A service that asks for tokens, beside one that does not."""

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests
from replica import MakePhoto
from running import RunningService, StartService

FIRST, SECOND, THIRD = "first-token-0123456789", "second-token-0123456789", "third-token-0123456789"
PER_MINUTE = 30


def listening_ports(service: RunningService) -> set[int]:
    main = psutil.Process(service.process.pid)
    return {
        connection.laddr.port
        for process in (main, *main.children(recursive=True))
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }


@pytest.mark.long
def test_two_services_of_a_machine_share_no_port(
    service: RunningService, start_service: StartService
) -> None:
    # The system deals out a shared port's connections: an open service would answer for a closed one.
    other = start_service()

    assert int(service.url.rpartition(":")[2]) in listening_ports(service)
    assert not listening_ports(service) & listening_ports(other)


@pytest.mark.long
def test_tokens_and_rates_of_a_closed_service(
    start_service: StartService, make_photo: MakePhoto, tmp_path: Path
) -> None:
    path = tmp_path / "tokens.txt"
    path.write_text(f"# of the gym\n{FIRST}\n{SECOND}\n{THIRD}\n")
    service = start_service("--tokens", str(path), "--requests-per-minute", str(PER_MINUTE))
    photo = make_photo(1, size=(32, 32))

    def ask(authorization: str | None, **options: Any) -> requests.Response:
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
        response = ask(authorization)
        assert response.status_code == 401, authorization
        assert response.headers["www-authenticate"] == "Bearer"
        assert response.json() == {
            "error": {
                "code": "unauthorised",
                "message": "the bearer token is missing or wrong: Authorization: Bearer …",
            }
        }
    # Neither in an address nor for what would be learnt of the model; a balancer has no token.
    assert ask(None, params={"token": FIRST, "access_token": FIRST}).status_code == 401
    assert service.get("/v1/model").status_code == 401
    assert service.get("/healthz").status_code == 200
    assert service.get("/").status_code == 200

    assert ask(f"Bearer {FIRST}").status_code == 200
    assert ask(f"bearer {FIRST}").status_code == 200
    assert service.get("/v1/model", headers={"Authorization": f"Bearer {FIRST}"}).status_code == 200

    with ThreadPoolExecutor(8) as threads:
        statuses = Counter(
            response.status_code for response in threads.map(ask, [f"Bearer {SECOND}"] * (3 * PER_MINUTE))
        )
    # A minute's worth, and what the seconds of asking give back: one each two seconds.
    assert statuses.keys() == {200, 429}
    assert PER_MINUTE <= statuses[200] <= PER_MINUTE + 10

    refused = ask(f"Bearer {SECOND}")
    assert refused.status_code == 429
    assert refused.headers["retry-after"] in {"1", "2"}
    assert refused.json()["error"]["code"] == "too_many_requests"
    assert ask(f"Bearer {THIRD}").status_code == 200

    # A token taken out and another put in, while the service runs.
    path.write_text(f"{THIRD}\nfourth-token-0123456789\n")
    time.sleep(5.5)
    assert ask(f"Bearer {FIRST}").status_code == 401
    assert ask("Bearer fourth-token-0123456789").status_code == 200
