"""The command serve: the HTTP service on this machine."""

import argparse
import sys

from physiq_ray.cli.output import given
from physiq_ray.config import LocalServingSettings, load_settings
from physiq_ray.machine import is_loopback


def serve_command(args: argparse.Namespace) -> int:
    """Serve until Ctrl-C or SIGTERM."""
    settings = load_settings(given(args, LocalServingSettings), file=args.config, kind=LocalServingSettings)
    from physiq_ray.serving.run import serve_locally

    print("starting Ray and loading the model …", file=sys.stderr, flush=True)
    if settings.tokens is None and not is_loopback(settings.host):
        print(
            f"physiq-ray serve: host={settings.host} without --tokens: whoever reaches this port may ask",
            file=sys.stderr,
        )

    def say_where(address: str) -> None:
        print(f"{address}  the page; POST photos to {address}/v1/predict; Ctrl-C stops", flush=True)

    serve_locally(settings, say_where, debug=args.debug)
    print("stopped", file=sys.stderr)
    return 0
