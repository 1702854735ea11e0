"""Figures of the report, one file per family: pure functions from documented values to
a ``Figure``.

A ``Figure`` draws itself for the page or for paper; ``style`` turns it into SVG, PNG or PDF.
"""
