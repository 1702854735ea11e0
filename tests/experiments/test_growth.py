"""Planning, status and the reading of files grow with the number of runs, and no faster."""

import json
from collections import Counter
from pathlib import Path

import pytest

import core.clip.product_choice as product_choice
import core.config.canonical as canonical
import core.config.parse as parse
import experiments.run.data_inputs as data_inputs
from core.config import config_from_text
from core.store.documents import DIGEST, digest_of, is_sealed, with_digest
from core.store.names import RECORD_NAME, STALE_SUFFIX
from core.store.record import count_set_aside, record_paths
from experiments.run.run import fingerprints
from experiments.study.planner import ROOT, plan
from experiments.study.status import study_status
from tests.helpers.growth_curves import (
    Point,
    read_table,
    section,
    slope,
    table_text,
    with_section,
)
from tests.helpers.untrained_studies import (
    fingerprints_of,
    grid_text,
    planned_grid,
    write_grid,
    write_untrained,
)


@pytest.fixture
def calls(monkeypatch):
    """Counts the calls of functions by name; ``count(module, name)`` begins."""
    found = Counter()

    def count(owner, name):
        original = getattr(owner, name)

        def counted(*given, **named):
            found[name] += 1
            return original(*given, **named)

        monkeypatch.setattr(owner, name, counted)
        return found

    return count


@pytest.mark.parametrize("factorial", [False, True])
def test_cells_that_differ_in_the_seed_are_explored_once(calls, tmp_path, factorial):
    found, numbers = calls(canonical, "_reach"), []
    for seeds in (4, 8):
        found.clear()
        made = planned_grid(tmp_path / "g.gin", grid_text(8, 2, seeds, factorial=factorial))
        assert len(made.cells) >= 8 * 2 * seeds
        numbers.append(found["_reach"])
    assert numbers[0] == numbers[1] > 0


@pytest.mark.parametrize("factorial", [False, True])
def test_what_a_family_keeps_changes_no_identity(tmp_path, factorial):
    made = planned_grid(tmp_path / "g.gin", grid_text(16, 2, 2, factorial=factorial))
    for cell in made.cells:
        alone = config_from_text(cell.config_text)
        assert alone.identity(ROOT, fingerprints_of(alone)) == cell.identity


def test_equal_lines_of_configurations_are_parsed_once(calls, tmp_path):
    texts = [c.config_text for c in planned_grid(tmp_path / "g.gin", grid_text(4, 2, 6)).cells]
    parse._line.cache_clear()
    found = calls(parse, "_raw_statements")
    read = [config_from_text(text) for text in texts]
    assert found["_raw_statements"] == len({line for t in texts for line in t.splitlines()})
    assert [config.text() for config in read] == texts


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("SGD.lr = 0.1\nSGD.lr = 0.2\n", "x:2: SGD.lr is already bound at x:1"),
        ("SGD.lr = 0.1\nSGD.lr = \n", "x:2"),
        ("SGD.lr = 0.1\nCoOp.ctx_init = 'a\nb'\n", "x:2"),
        ("SGD.lr = 0.1\nSGD.rate = 0.2\n", "x:2: SGD.rate: SGD has no parameter 'rate'"),
    ],
)
def test_an_error_still_has_its_line(text, message):
    with pytest.raises(ValueError, match=message):
        config_from_text(text, "x")


def test_values_over_several_lines_are_read_as_before():
    text = "CoOp.ctx_init = '''a.b = 1\nSGD.lr = 0.5'''\nexperiment.targets = (\n  'a',\n)\n"
    config = config_from_text(text)
    assert dict(config.bindings) == {
        "CoOp.ctx_init": "a.b = 1\nSGD.lr = 0.5",
        "experiment.targets": ("a",),
    }


@pytest.mark.parametrize("seeds", [2, 4])
def test_status_reads_every_record_once(monkeypatch, tmp_path, seeds):
    made = planned_grid(tmp_path / "s.gin", grid_text(3, 2, seeds))
    folder = write_untrained(made, tmp_path / "s", predictions=False)
    read, original = Counter(), open

    def counted(file, *args, **options):
        read[Path(file)] += Path(file).name == RECORD_NAME
        return original(file, *args, **options)

    monkeypatch.setattr("builtins.open", counted)
    found = study_status(folder)
    monkeypatch.undo()
    assert found["finished"] == found["runs"] == 6 * seeds and not found["damaged"]
    assert +read == Counter(record_paths(folder))


def test_status_sees_what_was_changed_by_hand(tmp_path):
    made = planned_grid(tmp_path / "s.gin", grid_text(3, 2, 2))
    folder = write_untrained(made, tmp_path / "s", predictions=False)
    one, two, three, *_ = record_paths(folder)
    one.unlink()
    two.write_text(two.read_text().replace('"shots": 16', '"shots": 15'))
    three.with_name(f"{RECORD_NAME}{STALE_SUFFIX}").write_text("old")
    found = study_status(folder)
    assert (found["finished"], found["missing"], found["set_aside"]) == (10, 2, 1)
    assert found["damaged"] == [str(two)]
    assert count_set_aside(folder / "nowhere", STALE_SUFFIX) == 0


DOCUMENTS = (
    {"a": ": b", "c": ['[": ', 'x": y']},
    {"a ": 1, "": 2, "b:": {"c": [], "d": {}}},
    {"é": "ü", "line": "a\nb", "slash": "\\", "number": 1e-7},
    {"rows": [[1, 2], [3]], "flag": True, "none": None, "text": "  two  spaces  "},
    {"z": {"digest": "no"}, "nested": {"digest": {"digest": 1}}},
)


@pytest.mark.parametrize("document", DOCUMENTS)
@pytest.mark.parametrize("indent", [None, 1, 4])
@pytest.mark.parametrize("sort_keys", [False, True])
def test_the_digest_is_checked_as_before_whatever_the_layout(document, indent, sort_keys):
    text = json.dumps(with_digest(document), indent=indent, sort_keys=sort_keys)
    content = json.loads(text)
    digest = content.pop(DIGEST)
    assert is_sealed(text, content, digest)
    for old, new in ((": b", ":b"), ("1", "2"), ("  two", " two"), ("no", "on"), ("ü", "u")):
        if old in json.dumps(document, ensure_ascii=False):
            changed = json.loads(json.dumps(document, ensure_ascii=False).replace(old, new, 1))
            altered = json.dumps({**changed, DIGEST: digest}, indent=indent, sort_keys=sort_keys)
            same = digest_of(changed) == digest
            assert is_sealed(altered, changed, digest) is same


def test_a_few_shot_draw_is_made_once_for_all_variants(calls, tmp_path):
    text = grid_text(4, ("mosaic/shapes",), 2)
    config = planned_grid(tmp_path / "g.gin", f"{text}experiment.backbone = 'mosaic'\n")
    found = calls(data_inputs, "drawn")
    data_inputs._DRAWS.clear()
    for cell in config.cells:
        cell_config = config_from_text(cell.config_text)
        fingerprints(cell_config, cache_dir=tmp_path / "cache", data_root=None)
    assert found["drawn"] == 2


def test_what_the_variants_of_a_dataset_share_is_found_once(calls, tmp_path):
    """The planner counts the images of classes once a dataset, and looks at no weights."""
    text = grid_text(6, ("mosaic/shapes",), 1)
    made = planned_grid(tmp_path / "g.gin", f"{text}experiment.backbone = 'mosaic'\n")
    short, weights = calls(data_inputs, "describe_shortage"), calls(product_choice, "block_weights")
    data_inputs._described_shortage.cache_clear()
    for cell in made.cells:
        fingerprints(config_from_text(cell.config_text), cache_dir=tmp_path / "c", data_root=None)
    assert short["describe_shortage"] == 1
    assert weights["block_weights"] == 0


def test_a_single_seed_has_its_fingerprints_read_once(tmp_path):
    asked = Counter()

    def fingerprint_of(config):
        asked[config.text()] += 1
        return fingerprints_of(config)

    config = write_grid(tmp_path / "g.gin", grid_text(4, 2, 1))
    assert len(plan(config, fingerprint_of).cells) == sum(asked.values()) == 8
    named = {cell.identity for cell in plan(config, fingerprint_of).cells}
    both = write_grid(tmp_path / "h.gin", grid_text(4, 2, 2))
    assert named < {cell.identity for cell in plan(both, fingerprint_of).cells}


def test_variants_that_name_the_same_parts_are_explored_once(calls, tmp_path):
    found, numbers = calls(canonical, "_reach"), []
    for variants in (13, 25):
        found.clear()
        planned_grid(tmp_path / "g.gin", grid_text(variants, 1, 2))
        numbers.append(found["_reach"])
    assert numbers[1] < 2 * numbers[0]


POINTS = [Point("runs", "plan", x, 0.002 * x, None) for x in (10, 100, 1000)] + [
    Point("classes", "cached features", x, 0.1, 30.0) for x in (10, 100)
]


def test_the_slope_is_that_of_the_large_end():
    assert slope(POINTS[:3]) == pytest.approx(1)
    assert slope(POINTS[3:]) == 0


def test_the_table_has_every_point_and_the_page_one_section():
    read = read_table(table_text(POINTS))
    assert [p[:4] for p in read] == [p[:4] for p in POINTS]
    page = with_section("# Speed\n\nWords.\n\n## Next\n", section(POINTS, "a machine"))
    assert with_section(page, section(POINTS, "another")).count("## How cost grows") == 1
    assert "| runs | plan | 1,000 | 2 | – | 1.00 |" in page
