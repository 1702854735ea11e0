"""Runs, studies, searches and the command line.

A room may import those before it: ``run`` trains and evaluates one configuration, ``workers``
executes runs in processes, ``study`` plans a grid and finishes it, ``search`` optimizes settings,
and ``cli`` has one file per command. ``verify`` replays reference vectors; ``configs`` holds the
configurations that are shipped.
"""
