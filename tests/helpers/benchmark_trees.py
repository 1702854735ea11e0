"""What the published readers return over miniature trees of the fifteen benchmarks, and a way to
see that a tree was left alone. The trees themselves are fixtures of ``benchmark_fixtures.py``.
"""

import json
from pathlib import Path

from tests.helpers.paths import GOLDEN_DATA

GOLDEN = GOLDEN_DATA

RECORDED = json.loads((GOLDEN / "expected.json").read_text())
del RECORDED["recorded"]
CREATED = [name for name, expected in RECORDED.items() if expected["no_split"]]


def snapshot(root: Path) -> list[tuple[str, int, int]]:
    """Every file and folder below a folder with its size and time."""
    return sorted(
        (str(path), path.lstat().st_size, path.lstat().st_mtime_ns) for path in root.rglob("*")
    )
