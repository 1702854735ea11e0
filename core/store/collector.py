"""The garbage collector, paused while many objects are made that do not refer to themselves."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def many_objects() -> Iterator[None]:
    """A context in which many objects are made and kept, such as records or rows of tables: the
    collector would look at all of them again and again, and find nothing.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
