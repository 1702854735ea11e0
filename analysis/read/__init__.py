"""Reading: a study folder, a CSV file, a search or printed tables become arrays and frames.

``load.py`` reads any source into the ``Results`` of ``results.py``; ``study_folder.py`` and
``csv_file.py`` do so for their kind. ``provenance.py`` keeps where every score comes from, and
``integrity.py`` excludes what may not stand in one table. ``published.py`` reads the tables that
papers print.
"""
