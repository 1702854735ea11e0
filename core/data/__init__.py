"""Datasets: one listing of items each, read from a folder, from a library or drawn by Mosaic."""
