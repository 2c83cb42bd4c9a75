"""A node of two that is taken away while training: ``python lost_node.py BACKBONE DATA RUN SETTINGS``.

Two workers, one on each node; the second node announces that it will go, and does. Training must go on with the worker
that is left, from a checkpoint that was written on the announcement.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

os.environ["RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S"] = "0.1"

import ray
from ray._raylet import GcsClient
from ray.cluster_utils import Cluster
from ray.core.generated import autoscaler_pb2

import rayclf
from rayclf.cluster import connect


def main() -> None:
    """Train, and print what happened as JSON."""
    backbone, data, settings = sys.argv[1], sys.argv[2], sys.argv[4]
    folder = Path(sys.argv[3])
    # 2 CPUs a worker: one fits on each node, and a task that reads and something else fit beside the first.
    head = {"num_cpus": 4, "resources": {"head": 1}, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    other = cluster.add_node(num_cpus=2)
    cluster.wait_for_nodes()
    os.environ["RAY_ADDRESS"] = cluster.address
    connect()
    other_work = ray.remote(num_cpus=1, resources={"head": 1})(threading.Event).remote()
    ray.get(other_work.is_set.remote())  # a second worker has no room beside it
    seen: list[Any] = []

    def take_away() -> None:
        client = GcsClient(address=cluster.address)
        reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
        deadline = int((time.time() + 15) * 1000)
        client.drain_node(other.node_id, reason, "spot", deadline)
        while not (folder / "checkpoints" / "checkpoint_manager_snapshot.json").exists():
            time.sleep(0.05)
        cluster.remove_node(other, allow_graceful=False)

    def watch(event: dict[str, Any]) -> None:
        if event["kind"] == "step" and event["step"] == 1 and not seen:
            seen.append(sorted(rayclf.Run(folder).status["processes"]))
            threading.Thread(target=take_away, daemon=True).start()

    # A row at a time, so that there is time to lose a node in.
    overrides = json.loads(settings) | {
        "resources.workers": [1, 2],
        "resources.cpus_per_worker": 2,
        "train.micro_batch_tokens": 1,
    }
    run = rayclf.train(data, folder, backbone=backbone, overrides=overrides, on_event=watch)
    resumed = [line["step"] for line in run.lines if line["kind"] == "resumed"]
    print(json.dumps({"before": seen, "after": sorted(run.status["processes"]), "resumed": resumed}))
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main()
