"""``rerun``: repeat one run of a study."""

from typing import Annotated

import typer

from experiments.cli.grid import print_outcome
from experiments.cli.options import RUNS, DataRoot, Device, Runs, Study, make_runtime


def rerun_command(
    study: Study,
    run: Annotated[str, typer.Argument(help="Identity of a run, or the beginning of it")],
    runs: Runs = RUNS,
    data_root: DataRoot = None,
    device: Device = "cpu",
) -> None:
    """Repeat one run of a study, in this process."""
    import experiments.cli.registered  # noqa: F401  (fills the registry)
    from core.store.search import is_search
    from experiments.search.status import refuse_rerun
    from experiments.study.driver import rerun
    from experiments.study.progress import make_progress
    from experiments.study.status import find_run
    from experiments.study.tracking import MlflowTracker
    from experiments.workers.local import InlineExecutor

    if is_search(study):
        refuse_rerun(study, run)
    outcome = rerun(
        study,
        find_run(study, run),
        InlineExecutor(),
        runtime=make_runtime(runs, data_root, device),
        tracker=MlflowTracker(study),
        progress=make_progress(),
    )
    print_outcome(outcome, study)
    raise typer.Exit(outcome.exit_code)
