"""Sample data for the demo: drawn photos of athletes, and a local S3 server that stores them.

Only the demo, the tests and the benchmarks use this package.

arms       the arms, and the looks of an athlete
backdrops  the backgrounds
canvas     shapes in body units → a shaded figure on a photo
equipment  what stands in an empty gym
facing     the figure from the front and from behind
figures    one athlete, one pose, one photo
photos     two buckets of photos with the flaws of real buckets, and their label file
poseless   photos of no known pose: standing relaxed, half turned away, an empty gym, two people
profile    the figure from the side
server     SeaweedFS on loopback: start, stop, fill, count its traffic
skeletons  the positions of the joints in the eight poses
stances    the positions of the joints of people who hold no pose
turned     the figure that is half turned
weed       the program of SeaweedFS: where it is, its ports, how it starts
"""

from physiq_ray.sample.figures import Athlete, draw_photo
from physiq_ray.sample.photos import SamplePhotos, write_sample_photos
from physiq_ray.sample.server import LocalS3

__all__ = ["Athlete", "LocalS3", "SamplePhotos", "draw_photo", "write_sample_photos"]
