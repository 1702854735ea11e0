"""The command line: one file per command.

``app.py`` assembles the commands, ``options.py`` has the options that several of them share, and
``console.py`` formats for terminals. Commands import what they need when they are called, so that
``--help`` and ``status`` start at once.
"""
