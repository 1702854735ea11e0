"""The plug-ins of a run: which it uses, and those that a stored run needs.

A stored run may come from somebody else, and a plug-in is code: it is loaded only where the person
names it (``--plugin``), or has run the very same sources here before, which the cache remembers by
their hash.
"""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from core.config import Config
from core.plugin_sources import sources_sha256
from core.plugins import Plugin, load_plugins, loaded_plugins, used_plugins
from core.program import way_out
from core.store.record import read_record
from experiments.run.outside_files import config_mark
from experiments.run.unchanged import check_unchanged

ROOT = "experiment"
PLUGINS = "plugins"


def _plugins_of(config: Config) -> tuple[Plugin, ...]:
    """The loaded plug-ins that a run uses."""
    values: dict[str, Any] = config.operative(ROOT)
    datasets = (values[f"{ROOT}.dataset"], *values[f"{ROOT}.targets"])
    return used_plugins((key.partition(".")[0] for key in values), datasets)


def used_plugins_of(config: Config) -> dict[str, dict[str, str]]:
    """The hashes of the plug-ins that a run uses, by path, as part of a record's environment;
    nothing where it uses none.
    """
    used = _plugins_of(config)
    return {PLUGINS: {str(plugin.path): plugin.sha256 for plugin in used}} if used else {}


def remember(config: Config, cache_dir: Path) -> None:
    """Note that a configuration, and the sources of its plug-ins, are run here."""
    marks = [_mark(str(p.path), p.sha256, cache_dir) for p in _plugins_of(config)]
    for mark in (config_mark(config.text(), cache_dir), *marks):
        with suppress(OSError):  # it is asked for later
            mark.parent.mkdir(parents=True, exist_ok=True)
            mark.touch()


def _mark(path: str, sha256: str, cache_dir: Path) -> Path:
    """The file that notes that these sources were run here, from this place: what a received study
    brings along lies elsewhere.
    """
    return cache_dir / "plugins" / hashlib.sha256(f"{path}\n{sha256}".encode()).hexdigest()


def load_stored_plugins(
    run_dir: Path, cache_dir: Path, *, allow_changed: bool = False
) -> tuple[str, ...]:
    """Load the plug-ins that the record of a run names; returns what has changed in them.

    Raises ValueError for one that is not loaded yet and was not run here, and, unless
    ``allow_changed``, for one whose sources are not those of the record.
    """
    changes = tuple(_load_stored(run_dir, cache_dir))
    check_unchanged(run_dir, changes, allow_changed=allow_changed)
    return changes


def _load_stored(run_dir: Path, cache_dir: Path) -> Iterator[str]:
    for name, sha256 in stored_plugins(run_dir).items():
        loaded = loaded_plugins()
        if any(plugin.sha256 == sha256 for plugin in loaded):
            continue
        named = [plugin for plugin in loaded if plugin.path.stem == Path(name).stem]
        if named:
            yield f"the plug-in {name} (hash {sha256}, now {named[0].sha256})"
        elif not _mark(name, sha256, cache_dir).exists():
            raise ValueError(
                f"{run_dir} was made with the plug-in {name}, which is code and was not run here; "
                "if you trust it, "
                + way_out(f"give --plugin {name}", f"call refinelab.load_plugin({name!r})")
            )
        elif _hash_of(name) != sha256:
            raise ValueError(
                f"{run_dir} was made with the plug-in {name}, which is not there any more or has "
                "changed since; restore it, or "
                + way_out(
                    "give the one to use with --plugin",
                    "load the one to use with refinelab.load_plugin",
                )
            )
        else:
            load_plugins([name])


def stored_plugins(run_dir: Path) -> Mapping[str, str]:
    """The hashes of the plug-ins that the record of a run names, by path; none without a record."""
    record = read_record(run_dir)
    found = {} if record is None else record.environment.get(PLUGINS, {})
    if not isinstance(found, Mapping) or not all(
        isinstance(text, str) for pair in found.items() for text in pair
    ):
        raise ValueError(f"{run_dir}: the plug-ins of its record must be hashes by path")
    return found


def _hash_of(path: str) -> str:
    """The hash of a plug-in as it is now, "" where it cannot be read. Nothing is executed."""
    try:
        return sources_sha256(Path(path))
    except (OSError, SyntaxError, ValueError):
        return ""
