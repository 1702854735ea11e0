"""Figures, one topic per file: an info record, and a function that draws it.

A figure owns no number that a section needs: sections fill the records. ``figure.py`` declares
``Figure``, ``colors.py`` the two styles (page and print), ``style.py`` what all drawings share, and
``drawing.py`` turns a figure into SVG, PNG or PDF.
"""
