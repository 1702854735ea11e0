"""Every figure: drawn from documented values, nothing clipped, names are never mathematics."""

import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from analysis.figures.attribution import attribution_figure
from analysis.figures.colors import PAGE, PRINT, SERIES
from analysis.figures.cost import CostInfo, _front, cost_figure
from analysis.figures.critical_difference import RankInfo, critical_difference
from analysis.figures.curves import CurveInfo, shot_curves
from analysis.figures.drawing import to_svg
from analysis.figures.figure import Estimated
from analysis.figures.forest import ForestInfo, ForestRow, forests
from analysis.figures.heatmap import MatrixInfo, PairwiseInfo, difference_heatmap, pairwise_heatmap
from analysis.figures.interaction import interaction_figure
from analysis.figures.levels import level_figure
from analysis.figures.plane import BaseNewInfo, base_new_figure
from analysis.figures.profiles import ProfileInfo, profile_figure
from analysis.figures.seeds import SeedInfo, seed_scatter
from analysis.figures.style import settings, short, text_width
from analysis.stats import CellMeans, Interval, MeanInterval, attribute, subsets

NAMES = (
    "CoOp",
    "$x^2_1$ & 50%",
    "<script>alert(1)</script>",
    "a very long name of a variant that goes on and on, ends with A",
    "a very long name of a variant that goes on and on, ends with B",
)
DATASETS = ("photo/d0", "d_1", "a_rather_long_dataset_name_of_the_field_v2")
RNG = np.random.default_rng(3)


def forest():
    words = ("better", "worse", "equivalent", "undecided")
    rows = tuple(
        ForestRow(
            variant=name, verdict=word, marks="▲○", difference=0.01,
            on_datasets_like_these=Interval(-0.03, 0.05), on_these_datasets=Interval(0.0, 0.02),
            per_dataset=(0.01, None, -0.02),
        )
        for name, word in zip(NAMES[1:], words, strict=True)
    )  # fmt: skip
    return forests([[ForestInfo(reference="CoOp", metric="hm", rope=0.01, rows=rows)]])


def shares(lacking=()):
    parts = ("cache", "$agg_1$", "a_long_name_of_a_part_of_the_refiner")
    scores = {
        cell: np.full((3, 4), 0.6 + 0.02 * len(cell)) + RNG.normal(0, 0.005, (3, 4))
        for cell in subsets(parts)
        if cell not in lacking
    }
    return attribute(scores, parts)


def profiles():
    bars = [
        Estimated(value=value, on_these_datasets=Interval(value - 0.01, value + 0.01))
        for value in RNG.uniform(0.5, 0.8, len(NAMES))
    ]  # fmt: skip
    return [
        ProfileInfo(variant=n, iqm=bar, median=bar, mean=bar, optimality_gap=bar,
                    points=(0.5, 0.65, 0.8), share_better=(1.0, 0.4, 0.0))
        for n, bar in zip(NAMES, bars, strict=True)
    ]  # fmt: skip


def crossed():
    cells = tuple(
        tuple(MeanInterval(0.6 + i / 50 + j / 70, 0.01, 4) for j in range(3)) for i in range(3)
    )
    levels = ("EmaCache", "A_long_level_name", "NoCache")
    return CellMeans(first="cache", second="agg_$1$", first_levels=levels,
                     second_levels=levels, cells=cells)  # fmt: skip


def priced(name, x):
    costs = {"train_seconds": x, "images_per_second": 900 / x, "trainable_parameters": 100.0**x,
             "peak_memory_mb": 300 + x}  # fmt: skip
    return CostInfo(variant=name, score=0.6 + x / 100, half_width=0.01, costs=costs)


def curves(*shots):
    mean, half_width = tuple(0.5 + s / 40 for s in shots), (0.02,) * len(shots)
    return [
        CurveInfo(variant=n, dataset=d, shots=shots, mean=mean, half_width=half_width)
        for n in NAMES
        for d in DATASETS
    ]


def matrix(values, rows=NAMES, columns=DATASETS):
    return MatrixInfo(rows=tuple(rows), columns=tuple(columns), difference=np.array(values))


def pairwise(names, marks):
    return PairwiseInfo(
        rows=names, columns=names, difference=np.zeros((len(names),) * 2),
        marks=((marks,) * len(names),) * len(names),
    )  # fmt: skip


def dots(values):
    return SeedInfo(
        baseline="CoOp", variants=NAMES[: len(values)], datasets=DATASETS, seeds=(1, 2, 3, 4),
        difference=values,
    )  # fmt: skip


FIGURES = {
    "forest": forest,
    "base_new": lambda: base_new_figure(
        [BaseNewInfo(variant=n, base=0.7 + i / 50, base_half_width=0.01, new=0.6,
                     new_half_width=0.02) for i, n in enumerate(NAMES)]
    ),
    "difference_heatmap": lambda: difference_heatmap(
        matrix([[0.01, np.nan, -0.12]] * 5), baseline="CoOp", metric="HM"
    ),
    "pairwise_heatmap": lambda: pairwise_heatmap(pairwise(NAMES, "▲≈"), metric="HM"),
    "critical_difference": lambda: critical_difference(
        RankInfo(variants=(NAMES[4], *NAMES[:4]), mean_ranks=(1.0, 2.1, 2.9, 4.0, 5.0),
                 groups=((NAMES[4], NAMES[0]), NAMES[:3]), apart=1, untested=2),
        alpha=0.05,
    ),
    "attribution": lambda: attribution_figure(shares(), metric="HM"),
    "leave_one_out": lambda: attribution_figure(
        shares([c for c in subsets(("cache", "$agg_1$", "a_long_name_of_a_part_of_the_refiner"))
                if len(c) < 2]), metric="HM"
    ),
    "levels": lambda: level_figure(
        [_level(e) for e in shares().of("main")], metric="HM"
    ),
    "interaction": lambda: interaction_figure([crossed()] * 4, metric="HM"),
    "seeds": lambda: seed_scatter(dots(RNG.normal(0, 0.02, (5, 3, 4))), metric="HM"),
    "cost": lambda: cost_figure([priced(n, i + 1) for i, n in enumerate(NAMES)], metric="HM"),
    "curves": lambda: shot_curves(curves(1, 2, 16)),
    "profiles": lambda: profile_figure(profiles(), metric="HM"),
}  # fmt: skip


def _level(effect):
    from dataclasses import replace

    return replace(effect, parts=(effect.parts[0], "@First", "@Another"))


def undrawn(figure):
    """Labels of ticks that lie outside of the view."""
    labels = set()
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            drawn = axis._update_ticks()
            ticks = [
                t
                for t in axis.get_major_ticks() + axis.get_minor_ticks()
                if t not in drawn or not axes.axison
            ]
            labels |= {label for t in ticks for label in (t.label1, t.label2)}
    return labels


@pytest.mark.parametrize("name", FIGURES)
def test_nothing_is_clipped_and_no_name_is_mathematics(name):
    figure = FIGURES[name]()
    for part in (figure, *figure.panels):
        with matplotlib.rc_context(settings(PRINT)):
            figure = part.draw(PRINT)
            canvas = FigureCanvasAgg(figure)
            canvas.draw()
            width, height = canvas.get_width_height()
            hidden = undrawn(figure)
            for text in figure.findobj(Text):
                if not text.get_text().strip() or not text.get_visible() or text in hidden:
                    continue
                if text.get_text().count("$") > 1 and "mathdefault" not in text.get_text():
                    assert not text.get_parse_math(), text.get_text()
                box = text.get_window_extent(canvas.get_renderer())
                inside = box.x0 > -2 and box.y0 > -2 and box.x1 < width + 2 and box.y1 < height + 2
                assert inside, f"{part.name}: {text.get_text()!r} at {box} of {width} x {height}"


def test_inline_svg_has_text_and_the_colors_of_the_page():
    svg = to_svg(forest(), prefix="p")
    assert "&lt;script&gt;" in svg and "<script" not in svg
    assert "currentColor" in svg and "var(--mark-better)" in svg and "http" not in svg
    for color in (PAGE.ink, PAGE.rule, PAGE.soft, PAGE.paper):
        assert color not in svg
    assert all(i.startswith("p-") for i in __import__("re").findall(r' id="([^"]+)"', svg))


def test_there_is_no_figure_without_numbers():
    assert forests([]) is None
    assert forests([[ForestInfo(reference="A", metric="hm", rope=0.01, rows=())]]) is None
    nothing = {"base": None, "base_half_width": None, "new": None, "new_half_width": None}
    assert base_new_figure([BaseNewInfo(variant="A", **nothing)]) is None
    empty = np.full((2, 3), np.nan)
    assert difference_heatmap(matrix(empty, NAMES[:2]), baseline="A", metric="HM") is None
    assert pairwise_heatmap(pairwise(NAMES[:1], ""), metric="HM") is None
    assert seed_scatter(dots(empty[:, :, None]), metric="") is None
    assert shot_curves(curves(16)) is None and shot_curves([]) is None
    assert interaction_figure([], metric="HM") is None and profile_figure([], metric="HM") is None
    assert level_figure([], metric="HM") is None and cost_figure([], metric="HM") is None


def test_values_are_the_numbers_that_are_drawn():
    values = attribution_figure(shares(), metric="HM").values
    kinds = {e["kind"] for e in values["effects"]}
    assert {"shapley", "add_one_in", "leave_one_out", "interaction"} <= kinds
    row = forest().values[0]["rows"][0]
    assert row["on_datasets_like_these"] == [-0.03, 0.05] and row["per_dataset"][1] is None
    assert row["marks"] == "▲○" and row["on_these_datasets"] == [0.0, 0.02]


def texts(figure):
    """Every text of a figure as it is drawn."""
    with matplotlib.rc_context(settings(PRINT)):
        return [t.get_text() for t in figure.draw(PRINT).findobj(Text) if t.get_text()]


def test_both_marks_stand_in_the_figures_of_pairs():
    assert sum(text.endswith("▲○") for text in texts(forest())) == len(NAMES) - 1
    two = pairwise_heatmap(pairwise(NAMES[:2], "▲≈"), metric="HM")
    assert sum(text.endswith("▲≈") for text in texts(two)) == 4
    open_pair = pairwise_heatmap(pairwise(NAMES[:2], "○○"), metric="HM")
    assert not any("○" in text for text in texts(open_pair))
    half_open = pairwise_heatmap(pairwise(NAMES[:2], "○▼"), metric="HM")
    assert sum(text.endswith("○▼") for text in texts(half_open)) == 4


def test_the_critical_difference_says_what_no_bar_means():
    def caption(**counts):
        info = RankInfo(variants=NAMES[:2], mean_ranks=(1.0, 2.0), groups=(), **counts)
        return critical_difference(info, alpha=0.01).caption

    assert "alpha 0.01" in caption() and "cannot be joined" not in caption()
    assert "1 more pair without a difference cannot be joined" in caption(apart=1)
    assert "3 pairs without a test cannot be joined" in caption(untested=3)
    alone = RankInfo(variants=NAMES[:1], mean_ranks=(1.0,), groups=())
    assert critical_difference(alone, alpha=0.05) is None


def test_short_names_keep_both_ends_and_fit():
    one, two = (short(name, room=90) for name in NAMES[3:])
    assert one != two and one.startswith("a ver") and one.endswith("A") and "…" in one
    assert text_width(one) <= 90 and short("CoOp") == "CoOp"


def test_the_front_holds_what_no_other_beats():
    points = [(1.0, 60.0), (2.0, 59.0), (3.0, 70.0), (3.0, 65.0)]
    assert _front(points, less_is_better=True) == [(1.0, 60.0), (3.0, 70.0)]
    assert _front(points, less_is_better=False) == [(3.0, 70.0)]


def test_series_colors_stay_apart_for_color_blind_readers():
    """Machado et al. 2009, full deuteranopia: no two of the first five series fall together."""
    simulate = np.array([[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]])
    seen = [simulate @ np.array(matplotlib.colors.to_rgb(c)) for c in SERIES[:5]]
    gaps = [np.linalg.norm(a - b) for i, a in enumerate(seen) for b in seen[:i]]
    assert min(gaps) > 0.12
