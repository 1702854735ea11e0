"""docs/api.md: its blocks, as they stand and in their order, in an empty folder."""

import re

import pytest

import refinelab
from tests.helpers.paths import ROOT
from tests.helpers.plugin_folders import forgotten_plugins

PAGE = (ROOT / "docs" / "api.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


def test_every_block_runs(tmp_path, monkeypatch, small_mosaic):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("REFINELAB_DATA", raising=False)
    assert PAGE.count("```") == 2 * len(BLOCKS), "a block of the page is not executed"
    names: dict[str, object] = {}
    with forgotten_plugins():
        for block in BLOCKS:
            exec(compile(block, "docs/api.md", "exec"), names)
    assert (tmp_path / "runs" / "tiny" / "report" / "index.html").is_file()


def test_the_page_names_what_there_is():
    called = set(re.findall(r"`run\.(\w+)", PAGE))
    assert called and all(
        hasattr(refinelab.LoadedRun, name) or name in ("record", "settings") for name in called
    )
    assert set(refinelab.__all__) <= set(dir(refinelab))
    with pytest.raises(AttributeError, match="no attribute 'load_runs'"):
        refinelab.load_runs  # noqa: B018
