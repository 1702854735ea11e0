"""Numbers of a device: read once where nobody else writes them, all of an epoch at once."""

import copy

import pytest
import torch

from core.host_number import HostNumber, read_back
from refiners.cache import means_by_label


class Counted:
    def __init__(self):
        self.reads = 0

    def __call__(self, tensor):
        self.reads += 1
        return tensor


@pytest.fixture
def counted():
    return Counted()


def test_a_number_is_read_once_until_somebody_writes_it(counted):
    known, tensor = HostNumber(), torch.tensor(3)
    assert [known.of(tensor, counted) for _ in range(3)] == [3, 3, 3] and counted.reads == 1
    known.write(tensor, 5)
    assert known.of(tensor, counted) == int(tensor) == 5 and counted.reads == 1
    tensor.copy_(torch.tensor(7))  # as a checkpoint does
    assert known.of(tensor, counted) == 7 and counted.reads == 2
    assert known.of(tensor.clone(), counted) == 7 and counted.reads == 3


def test_a_copy_of_its_owner_knows_its_own(counted):
    owner = torch.nn.Module()
    owner.register_buffer("number", torch.tensor(3))
    owner.known = HostNumber()
    owner.known.write(owner.number, 4)
    twin = copy.deepcopy(owner)
    twin.known.write(twin.number, 6)
    assert (owner.known.of(owner.number), twin.known.of(twin.number)) == (4, 6)
    owner.load_state_dict({"number": torch.tensor(9)})
    assert owner.known.of(owner.number) == 9
    owner._apply(torch.clone)  # as a move to another device does
    assert owner.known.of(owner.number) == 9


def test_all_values_are_read_at_once_and_exactly():
    values = {"a": torch.tensor(0.1), "b": 0.1, ("c", 1): torch.tensor(1 / 3, dtype=torch.float64)}
    values["d"] = torch.tensor(True)
    assert read_back(values) == {"a": float(torch.tensor(0.1)), "b": 0.1, ("c", 1): 1 / 3, "d": 1.0}
    assert read_back({}) == {} and read_back({"x": 2.0}) == {"x": 2.0}


@pytest.mark.parametrize(("size", "classes"), [(1, 1), (7, 3), (40, 2), (64, 90)])
def test_means_by_label_are_those_of_the_rows_of_each_label(size, classes):
    draw = torch.Generator().manual_seed(size)
    rows = torch.randn(size, 32, generator=draw)
    labels = torch.randint(classes, (size,), generator=draw)
    mean, hit = means_by_label(rows, labels, classes)
    for label in range(classes):
        own = rows[labels == label]
        assert bool(hit[label]) == (len(own) > 0)
        assert torch.equal(mean[label], own.mean(dim=0) if len(own) else torch.zeros(32))
