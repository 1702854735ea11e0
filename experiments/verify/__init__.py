"""Reference vectors of the published implementations, replayed: one file per method."""
