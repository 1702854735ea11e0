"""What is installed: the rooms of the project below the one package ``refinelab``."""

from setuptools import find_packages, setup

ROOMS = ("core", "methods", "refiners", "experiments", "analysis")

setup(
    packages=[
        "refinelab",
        *(f"refinelab.{name}" for name in find_packages(include=[f"{room}*" for room in ROOMS])),
    ],
    package_dir={"refinelab": "refinelab", **{f"refinelab.{room}": room for room in ROOMS}},
    package_data={
        "refinelab.core": ["mosaic/weights/*", "data/benchmarks/*.json"],
        "refinelab.experiments": ["configs/**/*.gin", "configs/*.json"],
        "refinelab.analysis": [
            "render/templates/*",
            "sections/references.bib",
            "read/published_tables/*.csv",
        ],
    },
)
