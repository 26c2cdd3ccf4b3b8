"""Whether a run would work: settings → findings, each with its remedy, in less than 20 seconds.

Everything is tried for real: buckets with an object that is removed again, the clock against S3, the cluster
by its own protocol. All checks run at the same time, in threads that are left behind if they do not end. This
process imports neither torch nor Ray; another one does, and is stopped when it takes too long.

access     what all checks on S3 share: client, endpoint, clock, credentials
buckets    sources and places of results: what may be done there
checks     all checks of a run, in the order of the report
devices    GPUs and precision, ImageNet's weights, the model
files      labels, poses, manifest, starting weights
finding    one line of the report
nodes      the Ray cluster of RAY_ADDRESS
outside    ask another program, and stop it when it takes too long
probe      the process that imports torch or Ray
proxies    proxies in the environment
resources  cores, memory, shared memory, disks
schedule   checks at the same time, until a deadline
versions   installed packages, and what they require
"""

from physiq_ray.doctor.finding import Finding, State

# checks is not imported here: if one of its packages is broken, the versions can still be shown.
__all__ = ["Finding", "State"]
