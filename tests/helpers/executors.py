"""Executors of tests, and the events of their jobs."""

import time
from contextlib import contextmanager

from experiments.workers.local import LocalExecutor


@contextmanager
def local_executors(log_dir, entry, jobs):
    """A factory of local executors, which are closed at the end."""
    made = []

    def make(jobs=jobs, entry=entry, **options):
        executor = LocalExecutor(jobs, entry=entry, log_dir=log_dir, **options)
        made.append(executor)
        return executor

    yield make
    for executor in made:
        executor.close()


def drain(executor, count, seconds=120.0, before=()):
    """All events, with those seen ``before``, until ``count`` jobs ended."""
    events, deadline = list(before), time.monotonic() + seconds
    while sum(event.kind in ("done", "failed") for event in events) < count:
        assert time.monotonic() < deadline, events
        events += executor.poll(1.0)
    return events


def ended(events):
    return {event.key: event for event in events if event.kind in ("done", "failed")}
