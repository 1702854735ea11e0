"""What a report says, one topic per file: numbers, sentences, tables and figures.

``section.py`` declares ``Section``, ``Topic`` and ``Chapter``; ``analysis.py`` holds what all
topics are computed from. A new statistic is a function in ``analysis.stats`` and a file here whose
``TOPIC`` is entered in ``analysis/report.py``.
"""
