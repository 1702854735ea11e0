"""Small Ray clusters on this machine, for tests."""

from contextlib import contextmanager
from pathlib import Path

import ray
from ray.cluster_utils import Cluster

from tests.helpers.fake_runs import LOST, fake_run, place_of

STORE = 80 * 1024**2


@contextmanager
def cluster(*cores, gpus=0):
    """A cluster whose head has no core for tasks, and one more node for each number of cores, with
    so many pretended GPUs.
    """
    made = Cluster()
    options = {"object_store_memory": STORE, "include_dashboard": False}
    made.add_node(num_cpus=0, **options)
    nodes = [made.add_node(num_cpus=count, num_gpus=gpus, **options) for count in cores]
    made.wait_for_nodes()
    try:
        yield made, nodes
    finally:
        ray.shutdown()
        made.shutdown()


def unless_on_dead_node(payload, on_progress):
    """A fake run; the GPU of the node that the file ``dead`` of the study names is lost."""
    dead = place_of(Path(payload["run_dir"])) / "dead"
    if ray.get_runtime_context().get_node_id() == dead.read_text():
        raise RuntimeError(LOST)
    return fake_run(payload, on_progress)
