"""How many calls and nodes of autograd a training step of CoOp needs: limits that only shrink."""

from collections import Counter
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from core.train.fit import train_step
from core.types import ClassNames
from tests.helpers.tiny_clip import batch, make_method, make_model, objective_of, shared_tiny_clip

# Long names, so that there are a head and chunks.
CLASSES = ClassNames(names=tuple(f"class{n} with a name of so many words" for n in range(24)))

# Of one step with a head and chunks, three blocks and an image tower.
LIMITS = {"view": 103, "transpose": 43, "slice": 26, "cat": 16, "clone": 10, "index_select": 4}
ALL_CALLS = 527
NODES = 137


class Calls(TorchDispatchMode):
    """Counts the operators that reach the dispatcher."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


def num_nodes(loss: Tensor) -> int:
    """How many nodes the graph of a loss has."""
    seen, waiting = set(), [loss.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting += [parent for parent, _ in node.next_functions]
    return len(seen)


def test_a_step_of_coop_needs_few_calls():
    clip = shared_tiny_clip()
    method = make_method("CoOp", clip, classes=CLASSES)
    packing = method.prompts.packing("context")
    assert packing.chunks.number
    model = make_model(method)
    model.train()
    objective, data = objective_of(model), batch()
    optimizer = torch.optim.SGD(model.trainable(), lr=0.01)
    train_step(model, objective, optimizer, data, nullcontext())
    with Calls() as calls:
        train_step(model, objective, optimizer, data, nullcontext())
    loss = torch.stack(list(objective(model(data), method.targets(data)).values())).sum()
    assert {name: calls.count[name] for name in LIMITS if calls.count[name] > LIMITS[name]} == {}
    assert calls.count.total() <= ALL_CALLS
    assert num_nodes(loss) <= NODES
