"""Train on a cluster of two nodes, and lose the second one in the third epoch: a process of its own.

python lose_a_node.py PHOTOS POSES FOLDER [announced]

announced: that the node will be taken away is announced, and it is lost once the checkpoint inside the epoch
is registered, however fast the machine is.
"""

import json
import os
import sys
import threading
import time
from pathlib import Path

import ray
from drain import drain
from ray.cluster_utils import Cluster
from rich.console import Console

from physiq_ray.config import Settings
from physiq_ray.progress import Display
from physiq_ray.training.run import train

photos, poses, folder, *options = sys.argv[1:]
run_folder = Path(folder, "runs", "shrunk")
os.environ["RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S"] = "0.2"
os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
second = cluster.add_node(num_cpus=2)
os.environ["RAY_ADDRESS"] = cluster.address
settings = Settings(
    sources=(photos,),
    poses=poses,
    output=f"{folder}/model",
    storage=f"{folder}/runs",
    run_name="shrunk",
    weights="random",
    image_size=64,
    batch_size=4,
    num_workers=2,
    min_workers=1,
    epochs=4,
    patience=9,
    precision="fp32",
    stall_timeout_s=30,
)


def lose() -> None:
    while not Path(run_folder, "epoch-0002").exists():
        time.sleep(0.05)
    time.sleep(0.5)
    if "announced" in options:
        drain(cluster.address, second.node_id, 600)
        while "-photos-" not in Path(run_folder, "checkpoint_manager_snapshot.json").read_text():
            time.sleep(0.05)
    cluster.remove_node(second, allow_graceful=False)


thread = threading.Thread(target=lose, daemon=True)
thread.start()
result = train(settings, Display(Console(width=200)))
thread.join(timeout=1)
ray.shutdown()
cluster.shutdown()
sys.stdout.write(json.dumps({"history": list(result.history), "lost": not thread.is_alive()}) + "\n")
