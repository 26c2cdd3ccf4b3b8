"""Photos over HTTP → poses, by Ray Serve.

app       the Serve application and its builder
run       the same on this machine, until it is interrupted
api       routes and their answers
schema    what they look like, for OpenAPI
edge      what each answer has around it
body      a request → the photos in it
encodings gzip, base64
refusals  what is answered in place of a prediction
clients   which client asks
access    tokens, rates, room
uploads   how many at a time, and how slow
service   a replica's models, decoding and answers
versions  which version of a model's file the replicas answer with
engine    the thread that computes
feedback  doubtful photos → a bucket
metrics   what Prometheus is told
requestlog  which model answered, in the log
closing   no new requests, and the last answers
page/     what a coach sees at /
"""

from physiq_ray.serving.app import build_app

__all__ = ["build_app"]
