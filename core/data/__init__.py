"""Datasets as lists of items, read from a folder or a library, or rendered by Mosaic."""
