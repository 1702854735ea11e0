"""The two styles in which a figure is drawn, and the colors of series.

``PAGE`` uses stand-ins that inline SVG swaps for the page's own colors, so that one drawing is
readable in light and in dark; ``PRINT`` is for paper. Colors are safe for color-blind readers.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Style:
    """Colors of one medium."""

    ink: str
    rule: str
    soft: str
    paper: str
    better: str = "#0173b2"
    worse: str = "#d55e00"
    equivalent: str = "#029e73"
    undecided: str = "#8b9096"

    def toward(self, gain: float) -> str:
        """The color of a change, positive where it is for the better."""
        return self.better if gain >= 0 else self.worse

    def of(self, verdict: str) -> str:
        """The color of a verdict word; that of undecided for any other text."""
        known = {"better": self.better, "worse": self.worse, "equivalent": self.equivalent}
        return known.get(verdict, self.undecided)


PAGE = Style(ink="#010203", rule="#040506", soft="#070809", paper="#fdfcfb")
PRINT = Style(ink="#1d2328", rule="#d5d9dd", soft="#5b656e", paper="#ffffff")

SERIES = (
    "#0173b2",
    "#de8f05",
    "#029e73",
    "#d55e00",
    "#cc78bc",
    "#ca9161",
    "#949494",
    "#56b4e9",
)
"""seaborn's color-blind palette without the two that vanish on white paper."""

PAGE_VARIABLES = {
    PAGE.ink: "currentColor",
    PAGE.rule: "var(--rule)",
    PAGE.soft: "var(--soft)",
    PAGE.paper: "var(--paper)",
    PAGE.better: "var(--mark-better)",
    PAGE.worse: "var(--mark-worse)",
    PAGE.equivalent: "var(--mark-equivalent)",
    PAGE.undecided: "var(--mark-undecided)",
}
