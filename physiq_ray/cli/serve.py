"""The command serve: the HTTP service on this machine."""

import argparse
import sys

from physiq_ray.cli.command import Command, load
from physiq_ray.config import LocalServingSettings
from physiq_ray.machine import is_loopback


def run_serve(args: argparse.Namespace) -> int:
    """Serve until Ctrl-C or SIGTERM."""
    settings = load(args, LocalServingSettings)
    from physiq_ray.serving.run import serve_locally

    print("starting Ray and loading the model …", file=sys.stderr, flush=True)
    if settings.tokens is None and not is_loopback(settings.host):
        print(
            f"physiq-ray serve: host={settings.host} without --tokens: everyone who can reach this port may "
            "send photos",
            file=sys.stderr,
        )

    def say_where(address: str) -> None:
        print(f"{address}  the page; POST photos to {address}/v1/predict; Ctrl-C stops", flush=True)

    serve_locally(settings, say_where, debug=args.debug)
    print("stopped", file=sys.stderr)
    return 0


SERVE = Command(
    "serve",
    "answer HTTP requests on this machine",
    (
        "physiq-ray serve",
        "physiq-ray serve --model s3://models/poses --port 8080 --tokens tokens.txt",
        "physiq-ray serve --feedback s3://checkin-poses/to-label",
    ),
    run_serve,
    settings=LocalServingSettings.model_fields,
    kind=LocalServingSettings,
    has_json=False,
)
