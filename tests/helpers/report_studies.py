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


REFINER = "CoOp+TextRefiner"
REFINED = {
    "alignment": "@NoAlignment",
    "cache": "@NoCache",
    "aggregation": "@NoAggregation",
    "semantic": "@NoLoss",
    "regularization": "@NoLoss",
}


def leave_one_out_study(folder, worth=(4, 0, 9, 1, 0), **shape):
    """The shape of the demo: two base methods, a refiner, and the refiner without each of its five
    parts, which are ``worth`` these images of 400.
    """
    bare = {"experiment.refiner": "@NullRefiner"}
    factors = {"ZeroShot": {"experiment.method": "@ZeroShot", **bare}, "CoOp": bare, REFINER: {}}
    effects = {"ZeroShot": (-9, 2), "CoOp": (0, 0), REFINER: (sum(worth),) * 2}
    for (part, off), own in zip(REFINED.items(), worth, strict=True):
        factors[f"minus {part}"] = {f"TextRefiner.{part}": off}
        effects[f"minus {part}"] = (sum(worth) - own,) * 2
    order = ["CoOp", *(v for v in factors if v != "CoOp")]
    return make_study(
        folder,
        {v: effects[v] for v in order},
        factors={v: factors[v] for v in order},
        references=(REFINER,),
        constant=("ZeroShot",),
        **{"datasets": 4, "seeds": 5, "prefix": "mosaic/", **shape},
    )


def evil_study(folder, **shape):
    """Variants whose names are markup of HTML, LaTeX and Markdown."""
    effects = {name: (4 * i, 4 * i) for i, name in enumerate(EVIL)}
    return make_study(folder, effects, references=(EVIL[1],), prefix="d_%&<b>/", **shape)
