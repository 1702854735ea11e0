"""Where runs execute: in this process or in worker processes.

``jobs.py`` declares jobs, their events and the interface of an executor, ``inline.py`` runs them in
this process, ``local.py`` supervises processes on this machine, each in its place
(``placement.py``), and ``worker.py`` is what a process does.
"""
