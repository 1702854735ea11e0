"""``status``: the progress of a study or a search."""

from collections.abc import Mapping
from typing import Any

from core.streams import one_line
from experiments.cli.console import console, print_json, table
from experiments.cli.options import Json, Plugin, Study


def status_command(study: Study, plugin: Plugin = None, as_json: Json = False) -> None:
    """Show the progress of a study or a search, its failures, and the process working on it."""
    from core.store.search import is_search

    if study.is_file():
        raise ValueError(
            f"{study} is a file: status shows the folder of a grid or a search; for a table of "
            "scores, use report"
        )
    if is_search(study):
        from experiments.cli.search_status import print_search_status
        from experiments.search.status import search_status

        found, show = search_status(study), print_search_status
    else:
        from experiments.study.status import study_status

        found, show = study_status(study), _print_study
    if as_json:
        print_json(found)
    else:
        show(found)


def _print_study(found: Mapping[str, Any]) -> None:
    from experiments.run.stale import stale_line

    columns = list(found["rows"][0])
    rows = [[row[column] for column in columns] for row in found["rows"]]
    screen = console()
    screen.print(table(f"study {found['study']}", columns, rows))
    for problem in found["problems"]:
        screen.print(
            f"{problem['status']}: {problem['variant']} on {problem['dataset']} "
            f"seed {problem['seed']}: {one_line(problem['message'])}",
            markup=False,
        )
    for path in found["damaged"]:
        screen.print(f"damaged, will be rerun: {path}", markup=False)
    for change in found["changes"]:
        screen.print(stale_line(change["runs"], change["change"], planned=False), markup=False)
    if kept := found["set_aside"]:
        records = "1 earlier record" if kept == 1 else f"{kept} earlier records"
        screen.print(f"kept aside: {records} of runs that were made again", markup=False)
    stale = f"{found['stale']} stale, " if found["stale"] else ""
    print(
        f"{found['finished']} of {found['runs']} runs finished, {found['failed']} failed, "
        f"{found['diverged']} diverged, {stale}{found['missing']} missing; "
        f"driver: {found['holder'] or 'none'}"
    )
