"""What the driver gets back from the training loop.

Ray's controller reads it, too. So, unlike `job`, this module imports neither the network nor the pipeline,
which would take the controller seconds.
"""

from dataclasses import dataclass

from physiq_ray.quarantine import Unreadable
from physiq_ray.training.measures import Divergence


@dataclass(frozen=True)
class Outcome:
    """The result of a loop; failure, divergence, is_out_of_time: why it stopped early."""

    unreadable: tuple[Unreadable, ...]
    failure: str | None = None
    divergence: Divergence | None = None
    is_out_of_time: bool = False
