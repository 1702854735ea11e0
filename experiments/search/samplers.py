"""Optuna's samplers, which propose settings, and pruners, which end trials early, by name.

Every option is set in the configuration (``TPE.multivariate = True``) and enters the definition of
the search, because the library's defaults change between versions. Optuna is imported when a
sampler or pruner is built, never before.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, ClassVar, Literal

from core.config import Configurable, NonNegativeInt, PositiveInt, Probability, register
from core.derived_seeds import derive_seed


class Sampler(Configurable, ABC):
    """Builds the proposer of one trial, from the seed of the study and the number of the trial.

    A new sampler for each trial, seeded by its number, makes a resumed search equal to an
    uninterrupted one: a persistent sampler would have to be saved. ``packages`` are those whose
    versions affect its proposals. ``needs_ranges``: it adapts to ranges that every trial has, and
    draws everything else at random.
    """

    multi_objective: ClassVar[bool] = True
    needs_ranges: ClassVar[bool] = False
    packages: ClassVar[tuple[str, ...]] = ("optuna", "numpy")

    @abstractmethod
    def build(self, seed: int, number: int) -> Any:
        """An Optuna sampler."""


def _seed(seed: int, *purpose: str | int) -> int:
    """A seed that numpy's legacy generator takes as well."""
    return derive_seed(seed, "sampler", *purpose) % 2**32


@register("sampler")
@dataclass(frozen=True, kw_only=True)
class TPE(Sampler):
    """Tree-structured Parzen estimator: mixed and conditional spaces, any number of trials.

    ``num_startup`` trials are random. ``constant_liar`` keeps the trials of one round apart;
    ``group`` splits a conditional space into its parts.

    Source: Bergstra et al., NeurIPS 2011; Watanabe, arXiv 2304.11127.
    """

    num_startup: NonNegativeInt = 10
    num_candidates: PositiveInt = 24
    multivariate: bool = True
    group: bool = True
    constant_liar: bool = True

    @classmethod
    def idle(cls, parameters: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, str]:
        """Groups are those of a multivariate estimator."""
        if parameters["multivariate"] or not parameters["group"]:
            return {}
        return {"group": "it groups settings that are estimated together; set TPE.multivariate"}

    def build(self, seed: int, number: int) -> Any:
        import optuna

        return optuna.samplers.TPESampler(
            n_startup_trials=self.num_startup,
            n_ei_candidates=self.num_candidates,
            multivariate=self.multivariate,
            group=self.group and self.multivariate,
            constant_liar=self.constant_liar,
            seed=_seed(seed, number),
        )


@register("sampler")
@dataclass(frozen=True, kw_only=True)
class GP(Sampler):
    """Gaussian process with expected improvement: few dimensions, up to about 200 trials.

    ``deterministic`` assumes noise-free objectives; a mean over few images is noisy.
    Settings that only some trials have are drawn at random.
    """

    packages: ClassVar[tuple[str, ...]] = ("optuna", "numpy", "scipy", "torch")

    num_startup: NonNegativeInt = 10
    deterministic: bool = False

    def build(self, seed: int, number: int) -> Any:
        import optuna

        return optuna.samplers.GPSampler(
            n_startup_trials=self.num_startup,
            deterministic_objective=self.deterministic,
            independent_sampler=optuna.samplers.RandomSampler(seed=_seed(seed, number, "alone")),
            warn_independent_sampling=False,
            seed=_seed(seed, number),
        )


@register("sampler")
@dataclass(frozen=True, kw_only=True)
class CMAES(Sampler):
    """Covariance matrix adaptation over ranges; choices are sampled at random.

    ``population`` 0 takes 4 + 3 ln(dimensions). ``with_margin`` keeps whole numbers from freezing.

    Source: Hansen, arXiv 1604.00772; Hamano et al., GECCO 2022, arXiv 2205.13482 (margin).
    """

    multi_objective: ClassVar[bool] = False
    needs_ranges: ClassVar[bool] = True
    packages: ClassVar[tuple[str, ...]] = ("optuna", "numpy", "cmaes")

    num_startup: PositiveInt = 1
    population: NonNegativeInt = 0
    with_margin: bool = True

    def build(self, seed: int, number: int) -> Any:
        import optuna

        return optuna.samplers.CmaEsSampler(
            n_startup_trials=self.num_startup,
            popsize=self.population or None,
            with_margin=self.with_margin,
            use_separable_cma=False,
            lr_adapt=False,
            consider_pruned_trials=False,
            independent_sampler=optuna.samplers.RandomSampler(seed=_seed(seed, number, "alone")),
            warn_independent_sampling=False,
            seed=_seed(seed, number),
        )


@register("sampler")
@dataclass(frozen=True, kw_only=True)
class QMC(Sampler):
    """A quasi-random sequence that fills the ranges evenly; choices are drawn at random.

    One sequence serves the whole study, so every trial uses the seed of the study.
    """

    packages: ClassVar[tuple[str, ...]] = ("optuna", "numpy", "scipy")

    sequence: Literal["sobol", "halton"] = "sobol"
    scramble: bool = True

    def build(self, seed: int, number: int) -> Any:
        import optuna

        return optuna.samplers.QMCSampler(
            qmc_type=self.sequence,
            scramble=self.scramble,
            seed=_seed(seed),
            independent_sampler=optuna.samplers.RandomSampler(seed=_seed(seed, number, "alone")),
            warn_asynchronous_seeding=False,
            warn_independent_sampling=False,
        )


@register("sampler")
@dataclass(frozen=True, kw_only=True)
class Random(Sampler):
    """Independent random draws: the baseline for every other sampler at equal budget.

    Source: Bergstra and Bengio, JMLR 13, 2012.
    """

    def build(self, seed: int, number: int) -> Any:
        import optuna

        return optuna.samplers.RandomSampler(seed=_seed(seed, number))


@register("sampler")
@dataclass(frozen=True, kw_only=True)
class NSGA3(Sampler):
    """Genetic search with reference points, for several objectives.

    ``mutation`` 0 takes 1 / dimensions. The first ``population`` trials are random.

    Source: Deb and Jain, IEEE TEVC 18, 2014.
    """

    population: PositiveInt = 20
    crossover: Probability = 0.9
    swapping: Probability = 0.5
    mutation: Probability = 0.0
    divisions: PositiveInt = 3

    def build(self, seed: int, number: int) -> Any:
        import optuna

        return optuna.samplers.NSGAIIISampler(
            population_size=self.population,
            crossover_prob=self.crossover,
            swapping_prob=self.swapping,
            mutation_prob=self.mutation or None,
            dividing_parameter=self.divisions,
            seed=_seed(seed, number),
        )


class Pruner(Configurable, ABC):
    """Decides after some runs of a trial whether the others are needed. Never used by grids."""

    prunes: ClassVar[bool] = True

    @abstractmethod
    def build(self) -> Any:
        """An Optuna pruner."""

    @abstractmethod
    def intermediate_values(self, parts: Sequence[float]) -> list[float]:
        """The values reported to the pruner, step by step, from a trial's runs in order."""


@register("pruner")
class NoPruning(Pruner):
    """No pruning: all runs of every trial are made."""

    prunes: ClassVar[bool] = False

    def build(self) -> Any:
        import optuna

        return optuna.pruners.NopPruner()

    def intermediate_values(self, parts: Sequence[float]) -> list[float]:
        return []


@register("pruner")
@dataclass(frozen=True, kw_only=True)
class WilcoxonPruning(Pruner):
    """Prunes a trial whose runs are worse than those of the best trial, in pairs, below ``p``."""

    p: Probability = 0.1
    min_runs: PositiveInt = 4

    def build(self) -> Any:
        import optuna

        return optuna.pruners.WilcoxonPruner(p_threshold=self.p, n_startup_steps=self.min_runs)

    def intermediate_values(self, parts: Sequence[float]) -> list[float]:
        return list(parts)


@register("pruner")
@dataclass(frozen=True, kw_only=True)
class MedianPruning(Pruner):
    """Prunes a trial whose running mean is worse than the median of earlier trials."""

    num_startup: PositiveInt = 5
    min_runs: PositiveInt = 2

    def build(self) -> Any:
        import optuna

        return optuna.pruners.MedianPruner(
            n_startup_trials=self.num_startup, n_warmup_steps=self.min_runs - 1
        )

    def intermediate_values(self, parts: Sequence[float]) -> list[float]:
        return [total / (n + 1) for n, total in enumerate(accumulate(parts))]
