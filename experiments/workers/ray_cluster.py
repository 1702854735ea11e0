"""What a Ray cluster is and has: its address, the room for runs on its nodes, and nodes to avoid.

Imported by ``ray.py`` alone, which looks for the package first.
"""

import os
import socket
import sys
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from core.streams import one_line

OBJECT_STORE_BYTES = 80 * 1024**2  # what the driver and tasks exchange are short texts
CPU, GPU, NODE_LABEL = "CPU", "GPU", "ray.io/node-id"
GROUP_LABELS = ("ray.io/node-group", "ray.io/node-type")
"""Nodes have one of these where an autoscaler has started them, as far as its provider says so."""
AUTO, LOCAL = "auto", "local"
ADDRESS_VARIABLE = "RAY_ADDRESS"
PROBE_SECONDS = 5.0
GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
"""How a client of gRPC, which Ray speaks, begins: with its settings. The server answers with its
own, whose kind is the fourth byte.
"""
BOOTSTRAP = Path("~/ray_bootstrap_config.yaml")
"""Where 'ray up' leaves the configuration of its autoscaler, on the head node."""


def check_address(address: str) -> None:
    """Raise ValueError unless an address, or that of the environment, is one of a cluster, and a
    server of the right kind answers there within a few seconds.
    """
    name = "--address" if address else ADDRESS_VARIABLE
    given = address or os.environ.get(ADDRESS_VARIABLE, "")
    if given in ("", AUTO, LOCAL):
        return
    host, _, port = given.rpartition(":")
    is_port = port.isascii() and port.isdecimal() and 0 < int(port) < 2**16
    if not is_port or not host or "/" in host or any(map(str.isspace, host)):
        raise ValueError(
            f"{name} must be auto or HOST:PORT, such as head:6379, got {given!r}; leave it out for "
            "a cluster on this machine alone"
        )
    if problem := _problem(host.strip("[]"), int(port)):
        raise ValueError(_no_cluster(given, problem))


def _problem(host: str, port: int) -> str:
    """Why there is no cluster at an address, or nothing."""
    try:
        with socket.create_connection((host, port), timeout=PROBE_SECONDS) as connection:
            connection.sendall(GREETING)
            answer = connection.recv(4)
    except TimeoutError:
        return f"no answer within {PROBE_SECONDS:g} seconds"
    except (OSError, UnicodeError) as error:
        return one_line(getattr(error, "strerror", None) or str(error))
    return "" if answer[3:] == GREETING[-6:-5] else "what answers there is not Ray"


def _no_cluster(address: str, problem: str) -> str:
    where = "" if address in ("", AUTO) else f" at {address}"
    return (
        f"there is no Ray cluster{where} ({problem}): start one with 'ray start', or leave out "
        "--address for one on this machine alone"
    )


def connect(address: str) -> bool:
    """Connect to a cluster; returns whether this process must disconnect in the end."""
    if ray.is_initialized():
        return False
    options: dict[str, Any] = {"address": address} if address else {}
    if not address and not os.environ.get(ADDRESS_VARIABLE):
        options = {  # a cluster of its own, also where another one was started on this machine
            "address": LOCAL,
            "object_store_memory": OBJECT_STORE_BYTES,
            "include_dashboard": False,
        }
    try:
        ray.init(log_to_driver=False, logging_level="ERROR", **options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ValueError(_no_cluster(address, one_line(str(error)).rstrip("."))) from None
    return True


@contextmanager
def connected(address: str, demand: "Demand") -> Iterator[None]:
    """A context with a connection to a cluster that can make runs. Raises ValueError where they
    would wait for ever; where nodes may be added, says that runs wait for one.
    """
    if not ray.is_initialized():
        check_address(address)
    begun = connect(address)
    try:
        if lack := demand.lack():
            print(f"{lack}; waiting for its autoscaler to add one", file=sys.stderr)
        yield
    finally:
        if begun:
            ray.shutdown()


@dataclass(frozen=True)
class Demand:
    """What a task asks of one node: cores, and a share of a GPU, which is 0 for none."""

    cores: int
    gpu_share: float = 0.0

    def __str__(self) -> str:
        if not self.gpu_share:
            return _counted(self.cores, "core")
        share = "a GPU" if self.gpu_share == 1 else f"1/{round(1 / self.gpu_share)} of a GPU"
        return f"{_counted(self.cores, 'core')} and {share}"

    def room(self, without: Collection[str] = ()) -> int:
        """How many tasks can run side by side on the nodes, of which some are left out."""
        return sum(self._room(node) for node in _nodes() if node["NodeID"] not in without)

    def _room(self, node: Any) -> int:
        has = node["Resources"]
        room = int(has.get(CPU, 0)) // self.cores
        if self.gpu_share:
            room = min(room, int(has.get(GPU, 0)) * round(1 / self.gpu_share))
        return room

    def lack(self) -> str:
        """What is missing where tasks have to wait for a node, or nothing. Raises ValueError where
        none will come.
        """
        if self.room():
            return ""
        lack = f"a run asks one node for {self}, and the cluster has {_inventory()}"
        if may_grow():
            return lack
        with_gpus = [node for node in _nodes() if node["Resources"].get(GPU, 0) >= 1]
        if self.gpu_share and not with_gpus:
            raise ValueError(f"{lack}: start nodes that have a GPU, or use --device cpu")
        most = max((int(n["Resources"].get(CPU, 0)) for n in with_gpus or _nodes()), default=0)
        fewer = f"set OMP_NUM_THREADS to {most} or less, or " if most else ""
        raise ValueError(f"{lack}: {fewer}start nodes that have as many cores")


def may_grow() -> bool:
    """Whether an autoscaler is known that may add nodes."""
    from ray._private.state import state

    with suppress(Exception):  # not public: other versions of Ray may lack it
        if state.get_cluster_config().node_group_configs:
            return True
    labels = {label for node in _nodes() for label in node.get("Labels", ())}
    return BOOTSTRAP.expanduser().exists() or not labels.isdisjoint(GROUP_LABELS)


def avoiding(nodes: Collection[str]) -> dict[str, Any]:
    """The options of a task that runs on none of these nodes."""
    return {"label_selector": {NODE_LABEL: f"!in({','.join(sorted(nodes))})"}} if nodes else {}


def _nodes() -> list[Any]:
    return [node for node in ray.nodes() if node["Alive"]]


def _inventory() -> str:
    """The nodes of the cluster in words."""
    kinds = Counter(
        (int(has.get(CPU, 0)), int(has.get(GPU, 0)))
        for has in (node["Resources"] for node in _nodes())
    )
    shown = [
        f"{_counted(number, 'node')} with {_counted(cores, 'core')} and {_counted(gpus, 'GPU')}"
        for (cores, gpus), number in kinds.most_common()
    ]
    return ", ".join(shown) or "no node"


def _counted(number: int, thing: str) -> str:
    return f"{number or 'no'} {thing}{'s' * (number > 1)}"
