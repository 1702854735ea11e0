"""How large, how often, how sure: effect sizes and posteriors of the headline's comparisons."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis import stats
from analysis.read.results import Results
from analysis.sections.comparisons import Block, Comparison, Options, differences
from analysis.sections.power import Plan, study_power
from analysis.stats import Array, Estimate, Posterior, PValue, Replicability, Resamples, TwoClaims
from analysis.text import rounded

DRAWS = 20_000
IMPROVEMENT_REPS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What stands beside a verdict. Differences are variant minus reference, fractions.

    ``improvement`` compares all runs of a dataset with all runs of the other side, unpaired
    (Agarwal et al., NeurIPS 2021); None where no dataset is complete. ``sign_flip`` and
    ``sign_test`` are exact p values beside those of the test that decides: of the mean under random
    signs, and of the number of wins. ``better_in`` and ``worse_in`` are k-hat: in how many datasets
    the effect is shown, and which.
    ``plan`` is what the design could have found; None with ``plan_reason``.
    """

    comparison: Comparison
    hodges_lehmann: Estimate
    dz: Estimate
    hedges_g: Estimate
    rank_biserial: Estimate
    probability_better: Estimate
    improvement: TwoClaims | None
    sign_flip: PValue
    sign_test: PValue
    posterior: Posterior
    better_in: Replicability
    worse_in: Replicability
    plan: Plan | None
    plan_reason: str = ""


def evidence(
    results: Results, block: Block, options: Options, resamples: Resamples
) -> tuple[Evidence, ...]:
    """Evidence for every comparison of the headline's metric that has a number."""
    family = [c for c in block.comparisons[results.primary_metric] if c.difference is not None]
    return tuple(_of(results, c, options, resamples) for c in family)


def _of(results: Results, c: Comparison, options: Options, resamples: Resamples) -> Evidence:
    values_DS = differences(results, c.variant, c.reference, c.metric)
    means = stats.dataset_means(values_DS)
    sample = means if c.num_datasets > 1 else values_DS.ravel()
    level = options.alpha / max(c.family_size, 1) / 2  # Bonferroni, and two directions
    better_in, worse_in = stats.replicated(
        values_DS, results.datasets, alpha=level, overlap=options.overlap
    )
    plan, why = _plan(values_DS, c, options)
    return Evidence(
        comparison=c,
        hodges_lehmann=stats.hodges_lehmann(sample),
        dz=stats.cohen_dz(sample),
        hedges_g=stats.hedges_g(sample),
        rank_biserial=stats.rank_biserial(sample),
        probability_better=stats.probability_better(values_DS, resamples),
        improvement=_improvement(results, c, resamples),
        sign_flip=stats.sign_flip(sample, rng=np.random.default_rng(options.rng_seed)),
        sign_test=stats.sign_test(sample),
        posterior=_posterior(values_DS, c, options),
        better_in=better_in,
        worse_in=worse_in,
        plan=plan,
        plan_reason=why,
    )


def _improvement(results: Results, c: Comparison, resamples: Resamples) -> TwoClaims | None:
    """On the datasets on which both sides have all of their seeds."""
    one, two = results.cube((c.variant, c.reference), c.metric)
    whole = ~np.isnan(one + two).any(axis=1)
    if not whole.any():
        return None
    return stats.improvement_claims(one[whole], two[whole], resamples.first(IMPROVEMENT_REPS))


def _posterior(values_DS: Array, c: Comparison, options: Options) -> Posterior:
    """Over dataset means; over the seeds, or resamples, of the only dataset."""
    if c.num_datasets == 1:
        ratio = options.overlap or 0.0
        return stats.bayesian_correlated_t(values_DS, test_over_train=ratio, rope=options.rope)
    means, rng = stats.dataset_means(values_DS), np.random.default_rng(options.rng_seed)
    return stats.bayesian_signed_rank(means, rng=rng, rope=options.rope, draws=DRAWS)


def _plan(values_DS: Array, c: Comparison, options: Options) -> tuple[Plan | None, str]:
    if options.overlap is not None and c.num_datasets == 1:
        return None, "resamples that share data: more of them add little, so none are planned"
    return study_power(
        values_DS,
        effect=options.rope,
        comparisons=max(c.family_size, 1),
        alpha=options.alpha,
        rng=np.random.default_rng(options.rng_seed),
    )


def evidence_records(found: Sequence[Evidence]) -> list[dict[str, Any]]:
    """One record a comparison, fractions; None where a number does not exist."""
    return [_record(e) for e in found]


def _record(e: Evidence) -> dict[str, Any]:
    c = e.comparison
    record: dict[str, Any] = {"reference": c.reference, "variant": c.variant, "metric": c.metric}
    for name in ("hodges_lehmann", "dz", "hedges_g", "rank_biserial", "probability_better"):
        estimate: Estimate = getattr(e, name)
        record[name] = rounded(estimate.value)
        if name in ("hodges_lehmann", "probability_better"):
            interval = estimate.interval
            record[f"{name}_low"] = rounded(interval.low) if interval else None
            record[f"{name}_high"] = rounded(interval.high) if interval else None
    record |= {
        **_improvement_record(e.improvement),
        "sign_flip_p": rounded(e.sign_flip.p),
        "sign_test_p": rounded(e.sign_test.p),
        "p_worse": rounded(e.posterior.worse),
        "p_equal": rounded(e.posterior.equal),
        "p_better": rounded(e.posterior.better),
        "k_hat_better": e.better_in.k_hat,
        "better_in": " ".join(e.better_in.named),
        "k_hat_worse": e.worse_in.k_hat,
        "worse_in": " ".join(e.worse_in.named),
    }
    return record | _power_record(e)


def _improvement_record(found: TwoClaims | None) -> dict[str, Any]:
    interval = found.on_datasets_like_these if found else None
    return {
        "improvement": rounded(found.value) if found else None,
        "improvement_low": rounded(interval.low) if interval else None,
        "improvement_high": rounded(interval.high) if interval else None,
    }


def _power_record(e: Evidence) -> dict[str, Any]:
    plan = e.plan
    if plan is None:
        empty = ("power", "minimum_effect", "seeds_needed", "datasets_needed")
        return {**dict.fromkeys(empty), "power_note": e.plan_reason}
    return {
        "power": rounded(plan.power),
        "minimum_effect": rounded(plan.minimum_effect),
        "seeds_needed": plan.seeds_needed,
        "datasets_needed": plan.datasets_needed,
        "power_note": "; ".join(filter(None, (*plan.notes, e.plan_reason))),
    }
