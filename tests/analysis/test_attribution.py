"""Effects of toggle grids against the reference, by identities, and where they do not exist."""

import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis import stats
from analysis.read.toggle_grid import find_toggle_grid, part_names
from analysis.stats import (
    MAX_PARTS,
    SHIFT,
    attribute,
    cell_means,
    coded_interaction,
    contrast,
    level_effects,
    subsets,
    variance_shares,
)
from analysis.stats.attribution import NO_THREE, NO_TWO, aliases, combine, estimate
from tests.helpers.paths import GOLDEN

REFERENCE = json.loads((GOLDEN / "stats_reference.json").read_text())
GRID = REFERENCE["toggle_grid"]
PARTS = tuple(GRID["rows"]["columns"][2:5])
exact = {"rel": 1e-9, "abs": 1e-10}


def reference_cells():
    rows = GRID["rows"]["values"]
    datasets = list(dict.fromkeys(row[0] for row in rows))
    seeds = sorted({row[1] for row in rows})
    cells = {cell: np.full((len(datasets), len(seeds)), np.nan) for cell in subsets(PARTS)}
    for dataset, seed, *levels, score in rows:
        on = frozenset(p for p, level in zip(PARTS, levels, strict=True) if level)
        cells[on][datasets.index(dataset), seeds.index(seed)] = score
    return cells


def random_cells(num_parts, seed=0, shape=(6, 3)):
    rng = np.random.default_rng(seed)
    parts = tuple("abcdefgh"[:num_parts])
    return parts, {cell: rng.normal(0.6, 0.05, shape) for cell in subsets(parts)}


def values(found, kind):
    return {effect.parts: effect.value for effect in found.of(kind)}


def on(code):
    return frozenset(p for p, digit in zip(PARTS, code, strict=True) if digit == "1")


@pytest.fixture(scope="module")
def found():
    return attribute(reference_cells(), PARTS)


def test_effects_match_the_reference(found):
    assert found.complete and not found.refused and not found.aliases
    for kind, key in (
        ("main", "main_effect = mean(on)-mean(off) = 2*OLS coef (+-1 coding)"),
        ("shapley", "shapley"),
        ("add_one_in", "add_one_in"),
        ("leave_one_out", "leave_one_out"),
    ):
        case = {(part,): value for part, value in GRID[key].items()}
        assert values(found, kind) == pytest.approx(case, **exact)
    whole = GRID["full-base"]
    assert values(found, "full_minus_base") == {(): pytest.approx(whole, **exact)}
    assert sum(GRID["shapley"].values()) == pytest.approx(whole, **exact)


def test_interactions_match_the_reference(found):
    moebius = {on(code): value for code, value in GRID["moebius"].items() if code.count("1") > 1}
    assert {frozenset(e.parts): e.value for e in found.of("interaction")} == pytest.approx(
        moebius, **exact
    )
    cells = reference_cells()
    for key, value in GRID["two_way_interaction_effect = 2*OLS coef"].items():
        pair = frozenset(name.removesuffix("_c") for name in key.split(":"))
        coded = combine(cells, coded_interaction(pair, PARTS)).mean()
        assert coded == pytest.approx(value, **exact)
    three = combine(cells, coded_interaction(frozenset(PARTS), PARTS)).mean()
    assert three == pytest.approx(GRID["three_way = 2*OLS coef"], **exact)


def test_sums_of_squares_match_the_reference():
    table = GRID["anova_lm typ2"]
    sums = dict(zip(table["index"], (row[0] for row in table["values"]), strict=True))
    cells = reference_cells()
    size = sum(scores.size for scores in cells.values())
    for name, value in sums.items():
        group = frozenset(name.split(":"))
        if group <= set(PARTS):
            effect = combine(cells, coded_interaction(group, PARTS)).mean()
            assert size * (effect / 2) ** 2 == pytest.approx(value, rel=1e-8)


def test_shares_of_variance_by_dataset():
    cells = reference_cells()
    shares = variance_shares(cells, PARTS)
    assert len(shares) == 5
    for row, share in enumerate(shares):
        assert sum(share.shares.values()) + share.seeds == pytest.approx(1)
        table = np.stack([cells[cell][row] for cell in subsets(PARTS)])
        within = ((table - table.mean(axis=1, keepdims=True)) ** 2).sum()
        assert share.seeds == pytest.approx(within / ((table - table.mean()) ** 2).sum())
        main = table[[PARTS[0] in c for c in subsets(PARTS)]].mean() - table.mean()
        total = ((table - table.mean()) ** 2).sum()
        assert share.shares[PARTS[0],] == pytest.approx(table.size * main**2 / total)


def test_effects_carry_the_claims_of_both_scopes_and_holm_within_their_kind(found):
    cells = reference_cells()
    for kind, family in (("shapley", 3), ("interaction", 4)):
        effects = found.of(kind)
        assert len(effects) == family
        for scope, test in (("these", stats.stratified_t), ("like", stats.t_over_datasets)):
            claims = [getattr(effect.judgment, scope) for effect in effects]
            assert [c.holm_p for c in claims] == stats.holm([c.p for c in claims])
            for effect, claim in zip(effects, claims, strict=True):
                of_one = test(combine(cells, contrast(kind, frozenset(effect.parts), PARTS)))
                assert claim.p == pytest.approx(of_one.p) and claim.interval == of_one.interval()
                assert claim.interval.low < effect.value < claim.interval.high
        assert all(np.mean(e.per_dataset) == pytest.approx(e.value) for e in effects)
    assert {e.judgment.these.word for e in found.of("shapley")} == {"better"}


def test_the_judge_of_the_report_gets_a_family_per_kind(found):
    families = []

    def judge(family):
        families.append(family)
        return stats.judge(family, direction=-1)

    turned = attribute(reference_cells(), PARTS, judge=judge)
    assert [len(family) for family in families] == [1, 3, 3, 3, 3, 4]
    shapley = [combine(reference_cells(), contrast("shapley", {p}, PARTS)) for p in PARTS]
    np.testing.assert_allclose(families[1], shapley)
    assert {e.judgment.these.word for e in turned.of("shapley")} == {"worse"}
    assert [e.value for e in turned.effects] == [e.value for e in found.effects]


@settings(max_examples=30, deadline=None)
@given(num_parts=st.integers(1, 5), seed=st.integers(0, 10_000))
def test_identities_on_random_grids(num_parts, seed):
    """Efficiency; Shapley from Moebius; main effect = Banzhaf; additive games; symmetry."""
    parts, cells = random_cells(num_parts, seed)
    single = [frozenset([p]) for p in parts]
    shapley = [combine(cells, contrast("shapley", s, parts)) for s in single]
    whole = combine(cells, contrast("full_minus_base", frozenset(), parts))
    np.testing.assert_allclose(sum(shapley), whole, atol=1e-12)
    for s, value in zip(single, shapley, strict=True):
        moebius = sum(
            combine(cells, contrast("interaction", group, parts)) / len(group)
            for group in subsets(parts)
            if s <= group
        )
        np.testing.assert_allclose(value, moebius, atol=1e-12)
        gains = [cells[c | s] - cells[c] for c in subsets(parts) if not s <= c]
        main = combine(cells, contrast("main", s, parts))
        np.testing.assert_allclose(main, np.mean(gains, axis=0), atol=1e-12)
        coded = combine(cells, coded_interaction(s, parts))
        np.testing.assert_allclose(main, coded, atol=1e-12)
        if num_parts <= 2:
            np.testing.assert_allclose(main, value, atol=1e-12)


def test_shapley_by_all_orders():
    parts, cells = random_cells(4)
    by_order = {p: [] for p in parts}
    for order in itertools.permutations(parts):
        for place, part in enumerate(order):
            before = frozenset(order[:place])
            by_order[part].append(cells[before | {part}] - cells[before])
    for part in parts:
        value = combine(cells, contrast("shapley", frozenset([part]), parts))
        np.testing.assert_allclose(value, np.mean(by_order[part], axis=0), atol=1e-12)


def test_leave_one_out_gives_its_differences_and_refuses_the_rest():
    parts, cells = random_cells(4)
    full = frozenset(parts)
    design = {c: s for c, s in cells.items() if len(c) >= 3}
    found = attribute(design, parts)
    assert {e.kind for e in found.effects} == {"leave_one_out"} and not found.complete
    for effect in found.of("leave_one_out"):
        expected = (cells[full] - cells[full - set(effect.parts)]).mean()
        assert effect.value == pytest.approx(expected)
    kinds = {r.kind for r in found.refused}
    assert kinds == {"shapley", "main", "add_one_in", "interaction", "full_minus_base"}
    assert "no scores for {a}, {}" in {r.reason for r in found.refused}
    assert found.statement.startswith("leave-one-out design: 5 of 16 cells")
    assert "Estimable without assumptions: leave one out" in found.statement
    for alias in found.aliases:
        loo = next(e.value for e in found.of("leave_one_out") if e.parts == (alias.part,))
        assert alias.value == pytest.approx(loo) and len(alias.with_effects) == 7
        assert set(alias.with_effects.values()) == {1.0}
        assert all(alias.part in group for group in alias.with_effects)


def test_add_one_in_gives_its_differences():
    parts, cells = random_cells(3)
    found = attribute({c: s for c, s in cells.items() if len(c) <= 1}, parts)
    assert {e.kind for e in found.effects} == {"add_one_in"}
    assert found.statement.startswith("add-one-in design: 4 of 8 cells")


def test_half_fraction_states_its_aliases():
    """The half of 2^3 with an odd number of parts on (I = ABC): every main effect has one alias."""
    parts, cells = random_cells(3)
    half = {c: s for c, s in cells.items() if len(c) % 2 == 1}
    found = attribute(half, parts)
    assert {e.kind for e in found.effects} == {"main"} and not found.complete
    assert "Estimable if no two parts interact: main effect. " in found.statement
    for effect, alias in zip(found.effects, found.aliases, strict=True):
        assert effect.assumptions == (NO_TWO,) and effect.parts == (alias.part,)
        assert effect.value == pytest.approx(alias.value)
    expected = {"a": ("b", "c"), "b": ("a", "c"), "c": ("a", "b")}
    for alias in found.aliases:
        assert alias.with_effects == {expected[alias.part]: 1.0}
        single, group = frozenset([alias.part]), frozenset(expected[alias.part])
        main = combine(cells, contrast("main", single, parts)).mean()
        other = combine(cells, coded_interaction(group, parts)).mean()
        assert alias.value == pytest.approx(main + other)


def test_parts_that_move_together_or_never_have_no_main_effect():
    parts, cells = random_cells(3)
    together = {c: s for c, s in cells.items() if ("a" in c) == ("b" in c) and "c" not in c}
    found = {alias.part: alias for alias in aliases(together, parts)}
    assert found["a"].value is None and found["a"].reason == "a is switched only together with b"
    assert found["c"].value is None and found["c"].reason == "c is never switched"


def test_missing_cells_are_left_out_by_dataset_and_said():
    parts, cells = random_cells(2)
    cells[frozenset("a")][0, 1] = np.nan
    cells[frozenset("a")][3] = np.nan
    found = attribute(cells, parts)
    shapley = found.of("shapley")[0]
    assert shapley.per_dataset[3] is None and shapley.value is not None
    one, two = variance_shares(cells, parts)[2:4]
    assert one.reason == "" and two.shares is None and two.reason == "no seed has every cell"
    disjoint = {c: s.copy() for c, s in cells.items()}
    disjoint[frozenset("a")][:3], disjoint[frozenset("b")][3:] = np.nan, np.nan
    effect = attribute(disjoint, parts).of("shapley")[0]
    assert effect.value is None and effect.reason == "no pair of scores"
    assert {effect.judgment.these.word, effect.judgment.like.word} == {"undecided"}


@pytest.mark.parametrize("shape", [(1, 1), (1, 4), (4, 1), (2, 2)])
def test_small_designs_say_what_does_not_exist(shape):
    parts, cells = random_cells(2, shape=shape)
    found = attribute(cells, parts)
    for effect in found.effects:
        these, like = effect.judgment.these, effect.judgment.like
        assert effect.value is not None and not np.isnan(effect.value)
        for claim, number in ((these, shape[1]), (like, shape[0])):
            assert (claim.interval is None) == (claim.p is None) == (number == 1)
            assert claim.p is None or 0 <= claim.p <= 1
            assert bool(claim.reason) == (number == 1)
        assert bool(effect.reason) == (1 in shape)


def test_identical_cells_have_no_effect():
    parts, cells = random_cells(2)
    same = {c: cells[frozenset()] for c in cells}
    found = attribute(same, parts)
    claims = [claim for e in found.effects for claim in (e.judgment.these, e.judgment.like)]
    assert all(e.value == 0 for e in found.effects) and {c.holm_p for c in claims} == {1.0}
    assert {c.word for c in claims} == {"equivalent"}
    assert {e.reason for e in found.effects} == {stats.IDENTICAL}
    flat = {c: np.full((6, 3), 0.5) for c in cells}
    assert variance_shares(flat, parts)[0].reason == "all scores are equal"


def test_what_cannot_be_attributed_is_refused_in_one_line():
    parts, cells = random_cells(2)
    for wrong, match in (
        (((), cells), "distinct parts"),
        ((("a", "a"), cells), "distinct parts"),
        ((tuple(range(MAX_PARTS + 1)), cells), "8 parts or fewer"),
        ((("a",), cells), "cells switch b"),
        ((parts, {}), "found none"),
        ((parts, {**cells, frozenset(): np.zeros((2, 2))}), "same datasets and seeds"),
    ):
        with pytest.raises(ValueError, match=match):
            attribute(wrong[1], wrong[0])


# Finding the grid in a study's factors.

ON_OFF = {"T.cache": ("@EmaCache", "@NoCache"), "T.semantic": ("@SemanticLoss", "@NoLoss")}


def full_factorial(levels):
    combos = itertools.product(*levels.values())
    return {f"v{i}": dict(zip(levels, combo, strict=True)) for i, combo in enumerate(combos)}


def test_a_full_grid_is_found_beside_named_variants():
    factors = {"CoOp": {"experiment.refiner": "@NullRefiner"}, **full_factorial(ON_OFF)}
    found = find_toggle_grid(factors)
    assert found.parts == ("cache", "semantic") and found.reason == ""
    assert found.outside == ("CoOp",)
    assert found.cells == {
        frozenset({"cache", "semantic"}): "v0",
        frozenset({"cache"}): "v1",
        frozenset({"semantic"}): "v2",
        frozenset(): "v3",
    }


def test_a_second_variant_of_the_same_levels_is_outside():
    factors = {**full_factorial(ON_OFF), "again": dict(full_factorial(ON_OFF)["v1"])}
    found = find_toggle_grid(factors)
    assert (
        found.outside == ("again",)
        and found.cells == find_toggle_grid(full_factorial(ON_OFF)).cells
    )


def test_an_add_one_in_grid_lists_off_first():
    numbers = {"T.a": ("0.0", "1.0"), "T.b": ("0.0", "2.0")}
    factors = {
        "none": {"T.a": "0.0", "T.b": "0.0"},
        "+a": {"T.a": "1.0", "T.b": "0.0"},
        "+b": {"T.a": "0.0", "T.b": "2.0"},
    }
    found = find_toggle_grid(factors)
    assert found.levels == {"a": ("1.0", "0.0"), "b": ("2.0", "0.0")}
    assert found.cells[frozenset()] == "none"
    told = find_toggle_grid(factors, levels={k: v[::-1] for k, v in numbers.items()})
    assert told.cells == found.cells


def test_named_variants_that_switch_parts_off_are_a_leave_one_out_design():
    factors = {
        "ZeroShot": {"experiment.method": "@ZeroShot", "experiment.refiner": "@NullRefiner"},
        "CoOp": {"experiment.refiner": "@NullRefiner"},
        "all": {},
        "minus cache": {"T.cache": "@NoCache"},
        "minus semantic": {"T.semantic": "@NoLoss"},
    }
    found = find_toggle_grid(factors)
    assert found.parts == ("cache", "semantic") and found.outside == ("ZeroShot", "CoOp")
    assert found.cells == {
        frozenset({"cache", "semantic"}): "all",
        frozenset({"semantic"}): "minus cache",
        frozenset({"cache"}): "minus semantic",
    }
    based = find_toggle_grid(factors, base="CoOp")
    assert based.cells[frozenset()] == "CoOp" and based.outside == ("ZeroShot",)
    with pytest.raises(ValueError, match="base must be a variant, got 'x'"):
        find_toggle_grid(factors, base="x")


def test_more_than_two_levels_are_no_toggle_and_give_effects_by_level():
    levels = {"T.cache": ("@A", "@B", "@NoCache"), "T.k": ("1", "2")}
    found = find_toggle_grid(full_factorial(levels))
    assert (
        not found.parts
        and "not a toggle grid, because cache has other than two levels" in found.reason
    )
    assert found.factors == {"cache": ("@A", "@B", "@NoCache"), "k": ("1", "2")}
    rng = np.random.default_rng(0)
    scores = {key: rng.normal(0.6, 0.05, (4, 3)) for key in found.by_level}
    effects = level_effects(scores, found.factors)
    assert [e.parts for e in effects] == [
        ("cache", "@A", "@B"),
        ("cache", "@A", "@NoCache"),
        ("k", "1", "2"),
    ]
    expected = np.mean([scores["@B", k] - scores["@A", k] for k in ("1", "2")])
    assert effects[0].value == pytest.approx(expected) and effects[0].kind == "level"
    del scores["@B", "2"], scores["@NoCache", "1"], scores["@NoCache", "2"]
    fewer = level_effects(scores, found.factors)
    assert [e.parts for e in fewer] == [("cache", "@A", "@B"), ("k", "1", "2")]
    assert fewer[0].value == pytest.approx((scores["@B", "1"] - scores["@A", "1"]).mean())


def test_studies_without_a_grid_say_so():
    for factors in ({}, {"a": {}, "b": {}}, {"a": {"x.y": "1"}, "b": {"x.z": "2"}}):
        found = find_toggle_grid(factors)
        assert not found.parts and found.reason.startswith("not a toggle grid")


def test_short_names_are_told_apart():
    assert part_names(["A.weight", "B.weight", "A.k"]) == {
        "A.weight": "A.weight",
        "B.weight": "B.weight",
        "A.k": "k",
    }


@pytest.mark.slow
def test_identities_of_attribute_on_many_random_grids():
    for seed in range(40):
        num_parts = 2 + seed % 4
        parts, cells = random_cells(num_parts, seed, shape=(3 + seed % 9, 1 + seed % 5))
        found = attribute(cells, parts)
        whole = found.of("full_minus_base")[0]
        assert sum(e.value for e in found.of("shapley")) == pytest.approx(whole.value, abs=1e-12)
        per_dataset = np.array([e.per_dataset for e in found.of("shapley")]).sum(axis=0)
        np.testing.assert_allclose(per_dataset, whole.per_dataset, atol=1e-12)


def random_holes(cells, share, seed=0):
    """The cells without some of their runs."""
    rng = np.random.default_rng(seed)
    return {c: np.where(rng.random(s.shape) < share, np.nan, s) for c, s in cells.items()}


def every_cell(weights, cells):
    return {cell: weights.get(cell, 0.0) for cell in cells}


def test_shapley_values_add_up_where_runs_are_missing():
    """Per dataset and on average: to all on minus all off of the same fit, not of the pairs."""
    parts, cells = random_cells(3, shape=(6, 4))
    cells = random_holes(cells, 0.1)
    found = attribute(cells, parts)
    whole = contrast("full_minus_base", frozenset(), parts)
    fit, assumed = estimate(cells, every_cell(whole, cells))
    assert assumed == (SHIFT,)
    shapley = found.of("shapley")
    assert {e.assumptions for e in shapley} == {(SHIFT,)} and len(fit.known) == 6
    assert sum(e.value for e in shapley) == pytest.approx(fit.values.mean(), abs=1e-12)
    by_dataset = np.sum([e.per_dataset for e in shapley], axis=0)
    np.testing.assert_allclose(by_dataset, fit.values, atol=1e-12)
    (pairs,) = found.of("full_minus_base")
    on, off = cells[frozenset(parts)], cells[frozenset()]
    assert pairs.value == pytest.approx(stats.dataset_means(on - off).mean())
    assert pairs.value != pytest.approx(fit.values.mean()) and pairs.assumptions == ()
    lost = sum(int(np.isnan(s).sum()) for s in cells.values())
    assert f"{lost} of {8 * 24} runs are missing" in found.statement
    assert "Shapley values add up" in found.statement and SHIFT in found.statement


def test_an_effect_uses_the_runs_of_the_cells_that_it_needs():
    """A hole in one cell leaves all effects alone that do not need this cell."""
    parts, cells = random_cells(3, shape=(4, 3))
    before = {(e.kind, e.parts): e for e in attribute(cells, parts).effects}
    hole = frozenset("ab")
    cells[hole] = cells[hole].copy()
    cells[hole][0, 1] = np.nan
    found = attribute(cells, parts)
    for effect in found.effects:
        weights = contrast(effect.kind, frozenset(effect.parts), parts)
        if hole in weights:
            assert (effect.assumptions == (SHIFT,)) == (len(weights) > 2)
        else:
            assert effect.value == before[effect.kind, effect.parts].value
            assert effect.assumptions == () and effect.reason == ""
        assert None not in effect.per_dataset and effect.judgment.these.interval
    pair = next(e for e in found.of("leave_one_out") if e.parts == ("c",))
    gap = cells[frozenset(parts)] - cells[hole]
    assert pair.value == pytest.approx(stats.dataset_means(gap).mean())


def test_a_grid_of_five_parts_keeps_its_effects_where_few_seeds_are_complete():
    parts, cells = random_cells(5, shape=(4, 3))
    cells = random_holes(cells, 0.056)
    complete = np.isfinite(np.stack(list(cells.values()))).all(axis=0)
    assert complete.sum() < 4  # of 12 pairs of dataset and seed
    for effect in attribute(cells, parts).effects:
        assert effect.value is not None and effect.judgment.these.interval, effect
        assert effect.judgment.like.interval


def test_a_dataset_without_a_cell_is_left_out_and_said():
    parts, cells = random_cells(2, shape=(4, 3))
    cells[frozenset("a")][2] = np.nan
    (one, two) = attribute(cells, parts).of("shapley")
    assert one.per_dataset[2] is None and one.assumptions == ()
    assert one.reason == two.reason == "3 of 4 datasets have the runs that it needs"
    rest = {c: np.delete(s, 2, axis=0) for c, s in cells.items()}
    assert attribute(rest, parts).of("shapley")[0].value == one.value


# Fractions.


def additive(parts, order, seed=0):
    """Cells without interactions of more than ``order`` parts, and the coefficient of every group
    in +-1 coding.
    """
    rng = np.random.default_rng(seed)
    groups = [g for g in subsets(parts) if len(g) <= order]
    beta = {g: rng.normal() / 100 for g in groups}
    noise = rng.normal(0.6, 0.01, (3, 4))
    cells = {
        cell: noise + sum(b * (-1.0) ** len(g - cell) for g, b in beta.items())
        for cell in subsets(parts)
    }
    return cells, beta


def test_a_half_fraction_of_resolution_five_gives_main_effects_and_interactions_of_two():
    """2^(5-1) with I = ABCDE."""
    parts = tuple("abcde")
    cells, beta = additive(parts, 2)
    half = {c: s for c, s in cells.items() if len(c) % 2 == 1}
    found, whole = attribute(half, parts), attribute(cells, parts)
    assert {e.kind for e in found.effects} == {"main", "shapley", "interaction"}
    assert len(found.of("interaction")) == 10
    for effect in found.effects:
        assert effect.assumptions == (NO_THREE,)
        expected = 2 ** len(effect.parts) * beta[frozenset(effect.parts)]
        assert effect.value == pytest.approx(expected, abs=1e-12)
        (same,) = [e for e in whole.of(effect.kind) if e.parts == effect.parts]
        assert effect.value == pytest.approx(same.value, abs=1e-12)
    assert {r.kind for r in found.refused} == {
        "full_minus_base",
        "add_one_in",
        "leave_one_out",
        "interaction",
    }
    assert all(len(r.parts) > 2 for r in found.refused if r.kind == "interaction")
    assert f"Estimable if {NO_THREE}: Shapley values, main effect, interaction" in found.statement


def test_a_fraction_is_judged_like_any_contrast():
    """Numbers of noisy cells: the least squares of numpy per seed, and the paired t of it."""
    parts, cells = random_cells(5)
    half = {c: s for c, s in cells.items() if len(c) % 2 == 1}
    found = attribute(half, parts)
    groups = [g for g in subsets(parts) if len(g) <= 2]
    model = np.array([[(-1.0) ** len(g - c) for g in groups] for c in half])
    scores = np.stack(list(half.values())).reshape(16, -1)
    beta = np.linalg.lstsq(model, scores, rcond=None)[0].reshape(16, 6, 3)
    for effect in found.of("interaction"):
        values = 4 * beta[groups.index(frozenset(effect.parts))]
        assert effect.value == pytest.approx(values.mean())
        test = stats.stratified_t(values)
        assert effect.judgment.these.p == pytest.approx(test.p)
        assert effect.judgment.these.interval == pytest.approx(test.interval())
    claims = [e.judgment.like for e in found.of("main")]
    assert [c.holm_p for c in claims] == stats.holm([c.p for c in claims])


def test_a_fraction_with_missing_runs_assumes_both():
    parts, cells = random_cells(5)
    half = random_holes({c: s for c, s in cells.items() if len(c) % 2 == 1}, 0.05)
    effects = attribute(half, parts).effects
    assert {e.assumptions for e in effects} == {(NO_THREE, SHIFT)}
    assert all(e.judgment.these.interval for e in effects)


def test_one_missing_cell_is_no_refusal_of_all_main_effects():
    parts = tuple("abc")
    cells, beta = additive(parts, 2)
    del cells[frozenset("ab")]
    found = attribute(cells, parts)
    for effect in found.of("shapley"):
        assert effect.value == pytest.approx(2 * beta[frozenset(effect.parts)], abs=1e-12)
        assert effect.assumptions == (NO_THREE,)
    free = {e.parts: e.assumptions for e in found.of("interaction")}
    assert free == {("a", "b"): (NO_THREE,), ("a", "c"): (), ("b", "c"): ()}


def test_resolution_four_gives_main_effects_alone():
    """2^(4-1) with I = ABCD: pairs of interactions are confounded."""
    parts = tuple("abcd")
    cells, beta = additive(parts, 1)
    half = {c: s for c, s in cells.items() if len(c) % 2 == 0}
    found = attribute(half, parts)
    assert [e.kind for e in found.effects if e.assumptions] == ["main"] * 4
    for effect, alias in zip(found.of("main"), found.aliases, strict=True):
        assert effect.value == pytest.approx(2 * beta[frozenset(effect.parts)], abs=1e-12)
        assert effect.assumptions == (NO_TWO,) and effect.value == pytest.approx(alias.value)
        assert alias.with_effects
    assert not found.of("shapley")


def test_a_judgment_that_a_pair_has_elsewhere_is_taken_over():
    parts, cells = random_cells(2)
    elsewhere = stats.judge([np.full((6, 3), 0.01) + np.random.default_rng(0).normal(size=(6, 3))])
    asked = []

    def known(cell, other):
        asked.append((cell, other))
        return elsewhere[0] if other == frozenset() else None

    found = attribute(cells, parts, known=known)
    full = frozenset(parts)
    assert set(asked) == {
        *((full, c) for c in cells if c != full),
        *((c, frozenset()) for c in cells if c),
    }
    for kind in ("full_minus_base", "add_one_in"):
        assert all(e.judgment is elsewhere[0] for e in found.of(kind))
    own = attribute(cells, parts)
    assert found.of("leave_one_out") == own.of("leave_one_out")
    assert found.of("shapley") == own.of("shapley")


def test_the_most_valuable_part_follows_the_direction():
    parts = ("a", "b")
    cells = {c: np.full((2, 2), 0.3 - 0.1 * ("a" in c) + 0.05 * ("b" in c)) for c in subsets(parts)}
    found = attribute(cells, parts)
    assert found.by_value() == ("b", "a") and found.by_value(-1) == ("a", "b")


def test_levels_use_their_pairs_and_a_fit_of_more():
    """One factor: a pair. Two factors: four cells, of which one lacks a run."""
    rng = np.random.default_rng(0)
    one = {(level,): rng.normal(0.6, 0.05, (3, 4)) for level in "xyz"}
    one["y",][1, 2] = np.nan
    told = stats.judge([one["x",] - one["z",]])[0]
    effects = level_effects(
        one, {"f": "xyz"}, known=lambda a, b: told if (a, b) == (("z",), ("x",)) else None
    )
    assert [e.assumptions for e in effects] == [(), ()] and effects[1].judgment is told
    assert effects[0].value == pytest.approx(stats.dataset_means(one["y",] - one["x",]).mean())
    two = {(f, g): rng.normal(0.6, 0.05, (3, 4)) for f in "xy" for g in "uv"}
    complete = level_effects(two, {"f": "xy", "g": "uv"})
    assert complete[0].value == pytest.approx(np.mean([two["y", g] - two["x", g] for g in "uv"]))
    two["x", "u"][0, 0] = np.nan
    missing = level_effects(two, {"f": "xy", "g": "uv"})
    assert {e.assumptions for e in missing} == {(SHIFT,)}
    assert all(e.judgment.these.interval for e in missing)


def test_cell_means_keep_all_runs_and_give_no_interval_to_a_fit():
    rng = np.random.default_rng(0)
    factors = {"f": "xy", "g": "uv"}
    scores = {(f, g): rng.normal(0.6, 0.05, (3, 4)) for f in "xy" for g in "uv"}
    (before,) = cell_means(scores, factors)
    scores["x", "u"][0, 0] = np.nan
    (after,) = cell_means(scores, factors)
    assert after.cells[0][1] == before.cells[0][1] and after.cells[1] == before.cells[1]
    one = after.cells[0][0]
    assert one.half_width is None and one.n == 4
    assert one.mean == pytest.approx(before.cells[0][0].mean, abs=0.02)
