"""``check-plugin``: the contract tests of the suite, on code from elsewhere."""

from typing import Annotated

import typer

from experiments.cli.console import print_json
from experiments.cli.options import RUNS, DataRoot, Json, Runs, make_runtime


def check_plugin_command(
    plugins: Annotated[
        list[str], typer.Argument(help="A .py file, a folder or a module; several are allowed")
    ],
    runs: Runs = RUNS,
    data_root: DataRoot = None,
    as_json: Json = False,
) -> None:
    """Check everything that a plug-in registers against the contract of its kind."""
    import experiments.cli.registered  # noqa: F401  (fills the registry)
    from core.plugins import load_plugins
    from core.streams import one_line
    from experiments.contracts.plugin import check_plugin

    runtime = make_runtime(runs, data_root, "cpu")
    found = []
    for plugin in load_plugins(plugins):
        for outcome in check_plugin(plugin, runtime):
            found.append(outcome)
            if not as_json:
                why = f": {outcome.problem}" if outcome.problem else ""
                word = "FAIL" if outcome.problem else "pass"
                print(one_line(f"{word}  {outcome.subject}: {outcome.check}{why}"), flush=True)
    failed = [outcome for outcome in found if outcome.problem]
    if as_json:
        keys = ("subject", "check", "problem")
        print_json([{key: getattr(outcome, key) for key in keys} for outcome in found])
    else:
        print(f"{len(found) - len(failed)} of {len(found)} checks passed")
    if failed:
        raise typer.Exit(1)
