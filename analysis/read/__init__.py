"""Readers of study folders, CSV files, published tables and searches."""
