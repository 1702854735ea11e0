"""The command line: its commands, and how errors are reported.

Exit codes: 0 success, 1 some runs failed, 2 bad input, 3 interrupted and resumable. A command
imports what it needs when it is called, so that help and usage errors appear without delay.
"""

import contextlib
import logging
import sys
from collections.abc import Callable
from typing import Any

import typer

from experiments.cli.bench import bench_command
from experiments.cli.data import data_app
from experiments.cli.diff import diff_command
from experiments.cli.doctor import doctor_command
from experiments.cli.evaluate import evaluate_command
from experiments.cli.export import export_command
from experiments.cli.grid import grid_command
from experiments.cli.import_checkpoint import import_command
from experiments.cli.inspect import inspect_command
from experiments.cli.list import list_command
from experiments.cli.power import power_command
from experiments.cli.pretrain import pretrain_command
from experiments.cli.published import published_command
from experiments.cli.report import report_command
from experiments.cli.rerun import rerun_command
from experiments.cli.search import search_command
from experiments.cli.status import status_command
from experiments.cli.sync import sync_command
from experiments.cli.train import train_command
from experiments.cli.ui import ui_command
from experiments.cli.verify import verify_command
from experiments.cli.weights import weights_command

COMMANDS: dict[str, Callable[..., None]] = {
    "list": list_command,
    "train": train_command,
    "evaluate": evaluate_command,
    "inspect": inspect_command,
    "grid": grid_command,
    "status": status_command,
    "diff": diff_command,
    "rerun": rerun_command,
    "report": report_command,
    "export": export_command,
    "search": search_command,
    "power": power_command,
    "published": published_command,
    "sync": sync_command,
    "ui": ui_command,
    "import": import_command,
    "weights": weights_command,
    "verify": verify_command,
    "bench": bench_command,
    "doctor": doctor_command,
    "pretrain": pretrain_command,
}

app = typer.Typer(
    help="RefineLab: ablation grids and significance reports for prompt tuning of CLIP.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(data_app, name="data")
for _name, _command in COMMANDS.items():
    app.command(_name)(_command)

# Typer bundles its own click or uses the installed one, depending on its version.
UsageProblem: Any = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")


class NoteHandler(logging.Handler):
    """Shows what the program notes on standard error, one line each."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write the message; a closed terminal is no reason to stop."""
        with contextlib.suppress(OSError, ValueError):
            print(record.getMessage(), file=sys.stderr, flush=True)


NOTES = NoteHandler(logging.WARNING)


def main() -> int:
    """Run a command; errors are one line on standard error, a traceback only with ``--debug``."""
    arguments = [word for word in sys.argv[1:] if word != "--debug"]
    debug = len(arguments) < len(sys.argv) - 1
    for package in ("core", "experiments", "methods"):
        logging.getLogger(package).addHandler(NOTES)  # adding it again changes nothing
    try:
        return int(app(arguments or ["--help"], standalone_mode=False) or 0)
    except typer.Exit as stop:
        return int(stop.exit_code)
    except UsageProblem as error:
        print(f"error: {error.format_message().rstrip('.')}; try --help", file=sys.stderr)
        return 2
    except (KeyboardInterrupt, typer.Abort):
        print("interrupted; rerun the same command to continue", file=sys.stderr)
        return 3
    except (ValueError, OSError) as error:
        if debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2
