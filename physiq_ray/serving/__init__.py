"""Photos over HTTP → poses, by Ray Serve.

app       the Serve application and its builder
run       the same on this machine, until it is interrupted
api       routes and their answers
headers   what each answer has around it
intake    a request → the photos in it
limits    tokens, rates, room
service   a replica's models, decoding and answers
engine    the thread that computes
feedback  doubtful photos → a bucket
metrics   what Prometheus is told
page/     what a coach sees at /
"""

from physiq_ray.serving.app import build_app

__all__ = ["build_app"]
