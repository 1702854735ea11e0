"""Where runs execute: in this process or in worker processes.

``jobs.py`` declares jobs, their events and the interface of an executor, ``local.py`` supervises
processes on this machine, and ``worker.py`` is what a process does.
"""
