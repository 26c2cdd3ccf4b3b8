"""Photos over HTTP → answers, with Ray Serve.

app         the Serve application: the settings of a deployment, what a replica starts and ends
run         the service on this machine, until it is interrupted; which ingress it uses
closing     how the ingress ends: no new requests, then the last answers
api         the routes, and what each of them returns
edge        the outermost layer: headers of responses, and a table of what is refused where
access      who may send a request, how often, and which addresses it may name
clients     which address counts as the client's
pace        whether there is room for one more request
uploads     how many uploads run at once, and how long
body        which photos a request contains: body, form or JSON
encodings   gzip and base64
schema      the JSON of requests and answers, for building and for OpenAPI
refusals    the errors of the HTTP API, and which error of the program gets which status
service     the work of one replica: fetch, decode, predict, count
models      which models answer: loading, replacing, canary
gate        whether a new model may replace the current one (compare_on)
versions    what all replicas agree on: the version of a model's file, and whether it is worse
decoding    the pixels and formats that are accepted
engine      which photos share a batch; the thread that computes
drift       how far the last photos are from those of the validation
feedback    doubtful photos → a bucket, where they wait for a label
corrections the right pose of a photo → a label record in the same bucket
metrics     what Prometheus receives
requestlog  the model's version in the access log
page/       the page for people at /

This module imports nothing: `run` must set variables of the environment before ray.serve is loaded.
`physiq_ray.serving:build_app` is the address of the application for `serve run` and `serve deploy`.
"""

from typing import Any


def __getattr__(name: str) -> Any:
    """Import `build_app` when Serve asks for it."""
    if name == "build_app":
        from physiq_ray.serving.app import build_app

        return build_app
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
