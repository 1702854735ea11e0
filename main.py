"""Run RefineLab from a checkout: ``python main.py`` is the installed ``refinelab`` command."""

import sys

from experiments.cli.interrupts import leave, listen

if __name__ == "__main__":
    listen()  # before anything takes time
try:
    from experiments.cli.app import app, main
except KeyboardInterrupt:
    sys.exit(leave())

__all__ = ["app", "main"]

if __name__ == "__main__":
    sys.exit(main())
