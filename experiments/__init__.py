"""Runs, grids, searches, executors, tracking and protocols."""
