"""Renderers of a report: HTML, LaTeX, Markdown, JSON and the terminal."""
