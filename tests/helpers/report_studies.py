"""Studies for the tests of the report: a toggle grid, names that attack, a CSV of anybody."""

import itertools

from tests.helpers.study_folders import make_study

PARTS = ("TextRefiner.cache", "TextRefiner.aggregation", "TextRefiner.semantic")
LEVELS = {
    "TextRefiner.cache": ("@EmaCache", "@NoCache"),
    "TextRefiner.aggregation": ("@LinearAggregation", "@NoAggregation"),
    "TextRefiner.semantic": ("@SemanticLoss", "@NoLoss"),
}
WORTH = (8, 5, -3)
TOGETHER = 6  # of the first two parts
EVIL = ("50% of_A & #1", "<script>alert(1)</script>", "$x^2$ {\\input y} ~", "a|b`c`*d*[e](f)")


def toggle_study(folder, **shape):
    """2 x 2 x 2: every part on and off; images of 400 as ``WORTH`` and ``TOGETHER`` say."""
    effects, factors = {}, {}
    for on in itertools.product((True, False), repeat=3):
        name = (
            "full"
            if all(on)
            else "none"
            if not any(on)
            else " ".join(
                f"-{part.split('.')[1]}" for part, has in zip(PARTS, on, strict=True) if not has
            )
        )
        worth = sum(w for w, has in zip(WORTH, on, strict=True) if has)
        worth += TOGETHER if on[0] and on[1] else 0
        effects[name] = (worth, worth)
        factors[name] = {
            part: LEVELS[part][0 if has else 1] for part, has in zip(PARTS, on, strict=True)
        }
    order = ["none", *(name for name in effects if name != "none")]
    return make_study(
        folder,
        {name: effects[name] for name in order},
        factors={name: factors[name] for name in order},
        references=("full",),
        **shape,
    )


def evil_study(folder, **shape):
    """Variants whose names are markup of HTML, LaTeX and Markdown."""
    effects = {name: (4 * i, 4 * i) for i, name in enumerate(EVIL)}
    return make_study(folder, effects, references=(EVIL[1],), prefix="d_%&<b>/", **shape)
