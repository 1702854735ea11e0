"""RefineLab from a checkout: ``python main.py`` is what ``refinelab`` is when installed."""

import sys

from experiments.cli.app import app, main

__all__ = ["app", "main"]

if __name__ == "__main__":
    sys.exit(main())
