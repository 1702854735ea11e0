"""Single runs, studies, searches, worker processes and the command line."""
