"""The OpenAPI document against what is answered, and who may ask at all."""

import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from running import RunningService, StartService
from schemathesis.specs.openapi.checks import ignored_auth, positive_data_acceptance

MakePhoto = Callable[..., bytes]
FIRST, SECOND, THIRD = "first-token-0123456789", "second-token-0123456789", "third-token-0123456789"
PER_MINUTE = 30


@pytest.fixture(scope="module")
def document(service: RunningService) -> Any:
    return schemathesis.openapi.from_url(f"{service.url}/openapi.json")


@pytest.mark.parametrize(
    ("method", "path"), [("post", "/v1/predict"), ("get", "/v1/model"), ("get", "/healthz")]
)
def test_whatever_is_sent_the_answer_is_as_the_document_says(document: Any, method: str, path: str) -> None:
    # By hand: schemathesis' own parametrize does not work with pytest 9.2.
    @settings(
        max_examples=150 if method == "post" else 15,
        deadline=None,
        derandomize=True,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=document[path][method].as_strategy())
    def ask(case: Any) -> None:
        response = case.call(timeout=60)
        assert response.status_code < 500 or response.status_code == 503
        # The document names the token that a closed service asks for, while this one is open; and it cannot
        # say which bytes are a photo.
        case.validate_response(response, excluded_checks=[ignored_auth, positive_data_acceptance])

    ask()


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
