"""The command line: its commands, and how errors are reported.

Exit codes: 0 success, 1 some runs failed, 2 bad input, 3 interrupted and resumable. A command
imports what it needs when it is called, so that help and usage errors appear without delay.
"""

import contextlib
import errno
import logging
import shutil
import sys
from collections.abc import Callable, Sequence
from typing import Any

import typer

from core.device_faults import describe_fault, fault_of
from core.machine import prepare_openmp
from core.program import PREFIX
from core.store.secrets import without_secrets
from core.store.storage import describe_os_error
from core.streams import guarded_streams, one_line
from experiments.cli.bench import bench_command
from experiments.cli.check_plugin import check_plugin_command
from experiments.cli.data import data_app
from experiments.cli.diff import diff_command
from experiments.cli.doctor import doctor_command
from experiments.cli.evaluate import evaluate_command
from experiments.cli.export import export_command
from experiments.cli.gpu_check import gpu_check_command
from experiments.cli.grid import grid_command
from experiments.cli.import_checkpoint import import_command
from experiments.cli.inspect import inspect_command
from experiments.cli.interrupts import leave, listening
from experiments.cli.list import list_command
from experiments.cli.plan import plan_command
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
    "plan": plan_command,
    "power": power_command,
    "published": published_command,
    "sync": sync_command,
    "ui": ui_command,
    "import": import_command,
    "weights": weights_command,
    "verify": verify_command,
    "check-plugin": check_plugin_command,
    "bench": bench_command,
    "gpu-check": gpu_check_command,
    "doctor": doctor_command,
    "pretrain": pretrain_command,
}

ONE_DRIVER = "; a search has one driver, which '--executor ray' gives more machines"
ONE_RUN = "; 'rerun' makes one run again, on this machine"
OTHER_WAYS = {
    ("search", "--share"): ONE_DRIVER,
    ("search", "--nodes"): ONE_DRIVER,
    ("search", "--slurm"): ONE_DRIVER,
    ("rerun", "--share"): ONE_RUN,
    ("rerun", "--executor"): ONE_RUN,
    ("rerun", "--jobs"): ONE_RUN,
}
"""What to do in place of an option that a command has not, by command and option."""
TYPER_INTERRUPTED = 130
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)

app = typer.Typer(
    help="RefineLab: ablation grids and significance reports for prompt tuning of CLIP.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
PANELS = app.rich_markup_mode
NARROWEST_PANELS = 40
"""Narrower terminals get help without boxes, which would cut the names of options."""
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
            print(without_secrets(record.getMessage()), file=sys.stderr, flush=True)


NOTES = NoteHandler(logging.WARNING)


def main() -> int:
    """Run a command; errors are one line on standard error, a traceback only with ``--debug``."""
    prepare_openmp()
    for package in ("core", "experiments", "methods"):
        logging.getLogger(PREFIX + package).addHandler(NOTES)  # again: changes nothing
    with guarded_streams(), listening():
        try:
            return _run(sys.argv[1:])
        except Exception as error:
            if not _was_interrupted(error):
                raise
            return leave()


def _was_interrupted(error: BaseException | None) -> bool:
    """Whether an error was made of a KeyboardInterrupt, as Python does inside a class body."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def _run(words: Sequence[str]) -> int:
    narrow = shutil.get_terminal_size().columns < NARROWEST_PANELS
    for part in (app, data_app):
        part.rich_markup_mode = None if narrow else PANELS
    arguments = [word for word in words if word != "--debug"] or ["--help"]
    debug = "--debug" in words
    try:
        return _code(int(app(arguments, standalone_mode=False) or 0))
    except typer.Exit as stop:
        return _code(int(stop.exit_code))
    except UsageProblem as error:
        usage = one_line(_usage(error)).rstrip(".")
        print(f"error: {usage}; try --help", file=sys.stderr)
        return 2
    except (KeyboardInterrupt, typer.Abort):
        return leave()
    except RecursionError:
        if debug:
            raise
        print("error: a file is nested too deeply to be read; see --debug", file=sys.stderr)
        return 2
    except (ValueError, OSError, OverflowError) as error:
        if debug:
            raise
        print(f"error: {one_line(_described(error))}", file=sys.stderr)
        return 2
    except (RuntimeError, MemoryError) as error:
        if debug or not fault_of(error):
            raise
        print(f"error: {without_secrets(describe_fault(error))}", file=sys.stderr)
        return 1


def _usage(error: Any) -> str:
    """What was wrong with the words of a command; an option of other commands is said to be one."""
    option, context = getattr(error, "option_name", ""), getattr(error, "ctx", None)
    commands: Any = getattr(typer.main.get_command(app), "commands", {})
    having = [
        f"'{name}'"
        for name, command in commands.items()
        if option and any(option in (*p.opts, *p.secondary_opts) for p in command.params)
    ]
    if context is None or not having:
        return str(error.format_message())
    name = context.info_name
    way_out = OTHER_WAYS.get((name, option), "")
    return f"'{name}' has no option {option}, it is one of {', '.join(having)}{way_out}"


def _code(code: int) -> int:
    """The exit code of a command; Typer turns an interruption into one of its own."""
    return leave() if code == TYPER_INTERRUPTED else code


def _described(error: Exception) -> str:
    """What went wrong, without passwords; an error of the system with the file and a way out."""
    if not isinstance(error, OSError):
        return without_secrets(str(error))
    hint = "; make room, then rerun the command" if error.errno in NO_ROOM else ""
    return without_secrets(f"{describe_os_error(error)}{hint}")
