"""Result folders of other programs, read as tables with one row per run, one file per format."""
