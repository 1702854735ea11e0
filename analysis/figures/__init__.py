"""Figures of the report, one file a family: pure functions from documented values to a ``Picture``.

A ``Picture`` draws itself for the page or for paper; ``style`` turns it into SVG, PNG or PDF.
"""
