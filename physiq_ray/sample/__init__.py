"""The demo's stand-ins for what a user brings: athletes' photos and an S3 server to hold them.

`figures` draws athletes in the eight mandatory poses, `photos` writes two buckets' worth of them with
the flaws of real buckets, `server` runs SeaweedFS on loopback. Nothing else in the package needs this.
"""

from physiq_ray.sample.figures import Athlete, draw_photo
from physiq_ray.sample.photos import SamplePhotos, write_sample_photos
from physiq_ray.sample.server import LocalS3

__all__ = ["Athlete", "LocalS3", "SamplePhotos", "draw_photo", "write_sample_photos"]
