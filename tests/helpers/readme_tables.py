"""The README's table of methods, made from the registry.

``python -m tests.helpers.readme_tables`` writes it anew.
"""

import re

from experiments.cli.method_table import methods_markdown
from tests.helpers.paths import ROOT

README = ROOT / "README.md"
BLOCK = re.compile(r"(<!-- list methods: begin -->\n)(.*?)(<!-- list methods: end -->)", re.DOTALL)


def shown_table() -> str:
    """The table of methods as the README has it."""
    (found,) = BLOCK.findall(README.read_text())
    text: str = found[1]
    return text.strip()


def write() -> None:
    """Put the table of now into the README."""
    table = methods_markdown()
    README.write_text(BLOCK.sub(lambda m: f"{m[1]}{table}\n{m[3]}", README.read_text()))


if __name__ == "__main__":
    write()
