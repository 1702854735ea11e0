"""Run RefineLab from a checkout: ``python main.py`` is the installed ``refinelab`` command."""

import sys

from experiments.cli.app import app, main

__all__ = ["app", "main"]

if __name__ == "__main__":
    sys.exit(main())
