"""Executors of jobs, and the worker processes."""
