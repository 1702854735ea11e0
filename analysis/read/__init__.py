"""Reading: study folders, CSV files, searches, printed tables and the results of other programs
become arrays and frames.

``load.py`` reads any source, or several, into the ``Results`` of ``results.py``;
``study_folder.py`` and ``csv_file.py`` do so for their kind, and ``sources.py`` joins several.
The files ``csv_*.py`` are steps from the text of a table to its scores, in the order of
``table_results``; ``importers/`` makes such tables from other formats. ``provenance.py`` keeps
where every score comes from, and ``integrity.py`` excludes what may not stand in one table.
``published.py`` reads the tables that papers print.
"""
