"""Nothing of a search can reach a test image or a new class: a data source raises when touched."""

from dataclasses import dataclass, replace

import pytest

import experiments.run.data_inputs
from core.data.catalog import load_dataset
from core.data.fewshot import few_shot
from core.data.splits import class_subset
from core.data.validation_only import validation_only
from core.store.record import read_records
from experiments.cli.search_commands import SearchCommand
from experiments.configs import config_path, read_config_file
from experiments.run.runtime import Runtime
from experiments.run.standalone import train_one
from experiments.search.ledger import read_events
from experiments.search.settings import search_of
from experiments.workers.local import InlineExecutor

NAME = "mosaic/vehicles"
SHORT = ["experiment.epochs=1", "experiment.shots=2", "experiment.batch_size=4"]
TINY = [
    *SHORT,
    f"search.datasets=({NAME!r},)",
    "search.seeds=(1,)",
    "search.final_seeds=(5,)",
    "search.round_size=1",
]


class TouchedError(AssertionError):
    """Something reached what it must not."""


@dataclass(frozen=True)
class Alarm:
    """Reads allowed pictures of a dataset, and raises for the others."""

    reader: object
    allowed: frozenset

    def read(self, path):
        if path not in self.allowed:
            raise TouchedError(path)
        return self.reader.read(path)


def alarmed(monkeypatch, mark, allowed_of):
    """Every dataset that runs read gets a reader with an alarm, and a feature cache of its own,
    named by ``mark``.
    """

    def load(name, **options):
        dataset = load_dataset(name, **options)
        reader = Alarm(dataset.reader, frozenset(allowed_of(dataset)))
        return replace(dataset, reader=reader, content=f"{dataset.content} {mark}")

    monkeypatch.setattr(experiments.run.data_inputs, "load_dataset", load)
    experiments.run.data_inputs._dataset.cache_clear()


def base_without_test(dataset):
    base = class_subset(dataset, "base")
    return [item.path for item in (*base.train, *base.val)]


def everything(dataset):
    return [item.path for item in (*dataset.train, *dataset.val, *dataset.test)]


@pytest.fixture
def place(small_mosaic):
    yield Runtime(cache_dir=small_mosaic)
    experiments.run.data_inputs._dataset.cache_clear()


def train(tmp_path, place, config, *overrides):
    return train_one(
        config_path(config),
        [*SHORT, f"experiment.dataset={NAME}", *overrides],
        tmp_path / "run",
        tmp_path,
        place,
        on_progress=lambda epoch: None,
    )[1]


@pytest.mark.parametrize("protocol", ["validation", "pseudo_new"])
@pytest.mark.parametrize("config", ["text_refiner", "promptkd_mosaic"])
def test_a_run_of_a_search_touches_base_classes_without_test(
    tmp_path, place, monkeypatch, protocol, config
):
    alarmed(monkeypatch, tmp_path, base_without_test)
    record = train(tmp_path, place, config, f"experiment.protocol={protocol}")
    dataset = load_dataset(NAME, root=None, cache_dir=place.cache_dir)
    base = class_subset(dataset, "base")
    targets = {"validation": ["all"], "pseudo_new": ["base", "new"]}[protocol]
    assert [e.target for e in record.evaluations] == targets
    names = [name for e in record.evaluations for name in e.class_names]
    assert names == list(base.class_names)
    assert all(total == 2 for e in record.evaluations for total in e.total)


def test_the_alarm_works(tmp_path, place, monkeypatch):
    """The same run under the protocol of the judgment sets it off."""
    alarmed(monkeypatch, tmp_path, base_without_test)
    with pytest.raises(TouchedError):
        train(tmp_path, place, "text_refiner")


def test_a_whole_search_touches_test_images_at_its_end_only(tmp_path, place, monkeypatch):
    alarmed(monkeypatch, tmp_path, base_without_test)
    monkeypatch.setattr(SearchCommand, "_executor", lambda *_: InlineExecutor())
    command = SearchCommand(tmp_path, place, jobs=0, track="none")
    file = config_path("search_text_refiner")
    options = {"trials": 2, "control": False}
    assert command.run(file, TINY, **options, final=False) == 0
    folder = tmp_path / "search_text_refiner"
    assert {record.protocol for record in read_records(folder)} == {"pseudo_new"}
    assert {event.state for event in read_events(folder)[1::2]} == {"complete"}
    assert not (folder / "result.json").exists() and (folder / "best.gin").exists()
    alarmed(monkeypatch, tmp_path, everything)
    assert command.run(file, TINY, **options, final=True) == 0
    assert (folder / "result.json").exists()
    final = list(read_records(tmp_path / "search_text_refiner_final"))
    assert {(r.protocol, r.seed, r.variant) for r in final} == {
        ("base_to_new", 5, "default"), ("base_to_new", 5, "tuned"),
    }  # fmt: skip


def test_what_is_left_of_a_data_set(small_mosaic):
    whole = few_shot(load_dataset(NAME, root=None, cache_dir=small_mosaic), shots=2, seed=1)
    left, base = validation_only(whole), class_subset(whole, "base")
    assert (left.class_names, left.train, left.val) == (base.class_names, base.train, base.val)
    assert left.test == left.val and not set(left.test) & set(whole.test)
    assert left.reader.read(left.train[0].path).size == (48, 48)
    new = class_subset(whole, "new")
    for item in (whole.test[0], new.train[0], new.val[0]):
        with pytest.raises(ValueError, match="withheld from the search"):
            left.reader.read(item.path)
    halves = [class_subset(left, half).class_names for half in ("base", "new")]
    assert halves[0] + halves[1] == left.class_names


def test_data_sets_without_validation_images_of_their_own_are_refused(small_mosaic):
    whole = few_shot(load_dataset(NAME, root=None, cache_dir=small_mosaic), shots=2, seed=1)
    with pytest.raises(ValueError, match="no validation images of its own"):
        validation_only(replace(whole, val=whole.test))
    with pytest.raises(ValueError, match="no validation images of its own"):
        validation_only(replace(whole, val=(*whole.val, whole.test[3])))
    with pytest.raises(ValueError, match="has no validation images"):
        validation_only(replace(whole, val=()))


@pytest.mark.parametrize("rule", ["val", "oracle-test"])
def test_no_epoch_is_chosen_by_what_judges_a_trial(tmp_path, place, rule):
    overrides = ["experiment.protocol=validation", f"experiment.selection='{rule}'"]
    with pytest.raises(ValueError, match=r"scores validation images, got experiment\.selection"):
        train(tmp_path, place, "text_refiner", *overrides)


@pytest.mark.parametrize("name", ["search_text_refiner", "search_sep", "search_promptkd"])
def test_presets_are_searches_of_real_parameters(name):
    from experiments.search.space import Space

    parsed = search_of(read_config_file(config_path(name)))
    space = Space(parsed.search.space, parsed.base)
    default = parsed.base.with_bindings({"experiment.dataset": NAME}, "").operative("experiment")
    for key, dimension in space.dimensions.items():
        assert dimension.contains(default[key]), key
    if name == "search_text_refiner":
        search = parsed.search
        assert (search.trials, len(search.datasets), len(search.seeds)) == (60, 3, 3)
