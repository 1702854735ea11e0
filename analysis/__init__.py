"""From records to a report, without torch.

A room may import those before it: ``stats`` and ``text.py`` (how numbers are written), ``read``
(a source becomes ``Results``), ``figures``, ``sections`` (one topic of the report per file),
``render`` (one format per file) and ``report.py``, which has the order of the report.
"""
