"""Small Ray clusters on this machine, for tests."""

from contextlib import contextmanager

import ray
from ray.cluster_utils import Cluster

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
