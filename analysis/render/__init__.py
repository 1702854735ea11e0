"""Renderers: HTML, LaTeX, Markdown, JSON (with its schema) and the terminal.

Each loops over the chapters of a report and formats the kinds of columns; none knows a topic.
``scores_table.py`` writes the runs in the format that a report reads.
"""
