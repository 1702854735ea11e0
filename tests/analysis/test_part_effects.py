"""Parts of a study: the order of levels, and studies of thirty variants and more."""

import itertools
import json

import numpy as np
import pytest

from analysis import stats
from analysis.figures.colors import PRINT
from analysis.figures.style import shown_names, text_width
from analysis.read.study_folder import load_study
from analysis.report import build_report
from analysis.sections.analysis import Options
from analysis.sections.comparisons import compared
from analysis.sections.pairwise import paired
from analysis.sections.parts import parts
from core.store.names import MANIFEST_NAME
from tests.helpers.planned_grids import COMMON, NAMED, TOGGLES, planned
from tests.helpers.study_folders import edit_manifest, make_study

QUICK = Options(reps=200)
KEYS = ("EmaCache.size", "EmaCache.rate")


def sizes_study(folder):
    """Two factors; the named order of variants shows the last level of both first."""
    levels = {"32 slow": ("32", "0.1"), "64 slow": ("64", "0.1")}
    levels |= {"32 fast": ("32", "0.9"), "64 fast": ("64", "0.9")}
    factors = {name: dict(zip(KEYS, pair, strict=True)) for name, pair in levels.items()}
    effects = {v: (8 * (b["EmaCache.size"] == "64"),) * 2 for v, b in factors.items()}
    return make_study(folder, effects, factors=factors, datasets=2, seeds=2, noise=0)


def shapley(folder):
    made = build_report(folder, out=folder / "report", options=QUICK, figures=False)
    assert parts(made.analysis).attribution is not None
    return {e.parts[0]: e.value for e in parts(made.analysis).attribution.of("shapley")}


def test_the_manifest_says_which_level_is_on(tmp_path):
    folder = sizes_study(tmp_path / "s")
    assert shapley(folder)["size"] < 0  # the order of the variants takes 32 for on
    edit_manifest(folder, factors={KEYS[0]: ["64", "32"], KEYS[1]: ["0.9", "0.1"]})
    assert shapley(folder)["size"] == pytest.approx(8 / 400, abs=2e-3)
    assert load_study(folder).levels == {KEYS[0]: ("64", "32"), KEYS[1]: ("0.9", "0.1")}
    edit_manifest(folder, factors={KEYS[0]: ["64"]})
    with pytest.raises(ValueError, match=f"{MANIFEST_NAME}: a factor needs at least two levels"):
        load_study(folder)


def test_the_planner_writes_levels_in_the_order_of_the_configuration():
    made = planned(COMMON + "grid.baseline = 'full'" + TOGGLES)
    manifest, grid = json.loads(json.dumps(made.manifest.to_dict())), made.grid
    assert list(manifest["factors"]) == list(grid.factors)
    assert all(len(manifest["factors"][key]) == len(grid.factors[key]) for key in grid.factors)
    first = {v["name"]: v["factors"] for v in manifest["variants"]}
    assert {key: levels[0] for key, levels in manifest["factors"].items()} == first["full"]
    assert planned(NAMED).manifest.to_dict()["factors"] == {}


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """Five parts on and off: 32 variants on 6 datasets."""
    parts = ("alignment", "cache", "aggregation", "semantic", "regularization")
    effects, factors = {}, {}
    for on in itertools.product((True, False), repeat=len(parts)):
        name = "+".join(p for p, has in zip(parts, on, strict=True) if has) or "nothing"
        worth = sum(w for w, has in zip((4, 9, 7, -3, 1), on, strict=True) if has)
        effects[name] = (worth, worth)
        factors[name] = {
            f"TextRefiner.{p}": "@Ema" if has else "@NoPart"
            for p, has in zip(parts, on, strict=True)
        }
    folder = make_study(
        tmp_path_factory.mktemp("many") / "grid", effects, factors=factors, datasets=6, seeds=2
    )
    return build_report(folder, out=folder / "report", options=QUICK, figures=False)


def test_thirty_variants_are_attributed_and_judged(many):
    assert (
        parts(many.analysis).attribution is not None
        and len(parts(many.analysis).attribution.of("shapley")) == 5
    )
    (block,) = compared(many.analysis)
    assert len(block.comparisons["hm"]) == 31
    assert {c.family_size for c in block.comparisons["hm"]} == {31}
    found = paired(many.analysis)["hm"]
    p = found.p_VV[np.triu_indices(32, 1)]
    assert len(found.variants) == 32 and np.isfinite(p).all()
    page = many.page.read_text()
    assert all(
        f'id="figure-{name}"' in page for name in ("critical_difference", "pairwise_heatmap")
    )


def test_a_family_of_thirty_one_has_the_tests_of_any_other(many):
    """Exact Wilcoxon on 6 datasets times 31 could never reach alpha; the t of either scope can."""
    found = compared(many.analysis)[0].comparisons["hm"]
    for scope in ("these", "like"):
        claims = [getattr(c, scope) for c in found]
        assert [c.holm_p for c in claims] == stats.holm([c.p for c in claims])
        assert min(c.holm_p for c in claims) < 0.05
        assert {"worse", "undecided"} <= {c.word for c in claims}
    assert {31 * c.smallest_p > 0.05 for c in found} == {True}
    text = many.section("methods").text
    assert "Holm" in text and "stratified by dataset" in text and "over dataset means" in text


def test_nothing_of_the_figures_is_cut_off(many):
    for name in ("critical_difference", "attribution", "forest", "pairwise_heatmap"):
        figure = many.figures[name].draw(PRINT)
        assert outside(figure) == [], name


def outside(figure):
    """The texts of a figure that are not wholly on its canvas."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    width, height = figure.bbox.width + 0.5, figure.bbox.height + 0.5
    axes_texts = [t for axes in figure.axes for t in axes.findobj(type_of_text())]
    cut = []
    for text in {*axes_texts, *figure.texts}:
        if not text.get_text().strip() or not text.get_visible():
            continue
        box = text.get_window_extent(renderer)
        if box.x0 < -0.5 or box.y0 < -0.5 or box.x1 > width or box.y1 > height:
            cut.append(text.get_text())
    return sorted(cut)


def type_of_text():
    from matplotlib.text import Text

    return Text


def test_shortened_names_still_differ():
    names = [
        "-alignment -cache -aggregation -semantic",
        "-alignment -regularization -semantic",
        "x",
    ]
    shown = shown_names(names, room=100)
    assert shown[2] == "x" and len(set(shown)) == 3 and all(text_width(s) <= 100 for s in shown)
    assert shown[0].split()[1].startswith("-c")
    settings = [f"EmaCache.read_temperature={v} EmaCache.num_slots=100" for v in (0.05, 0.5)]
    assert all("=" in s for s in shown_names(settings, room=120))
    twins = ["a" * 200 + "b" + "a" * 200, "a" * 200 + "c" + "a" * 200]
    assert [s[0] for s in shown_names(twins)] == ["1", "2"]
