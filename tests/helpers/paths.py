"""Where the tests find what the repository ships."""

from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
ROOT = TESTS.parent
GOLDEN = TESTS / "golden"
GOLDEN_DATA = TESTS / "golden_data"
CONFIGS = ROOT / "experiments" / "configs"
