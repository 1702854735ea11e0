"""Reads the files that W&B keeps offline: a header, then blocks of chunks, each with a checksum,
a length and its place in a record (1 whole, 2 first, 3 middle, 4 last).
"""

import struct

BLOCK, HEADER, CHUNK_HEADER = 32768, 7, 7


def wandb_records(path):
    """Every record of an offline run, in order."""
    from wandb.proto import wandb_internal_pb2

    found, pending = [], b""
    for place, chunk in _chunks(path.read_bytes()):
        pending += chunk
        if place in (1, 4):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(pending)
            found.append(record)
            pending = b""
    return found


def _chunks(raw):
    at = HEADER
    while at + CHUNK_HEADER <= len(raw):
        if BLOCK - at % BLOCK < CHUNK_HEADER:
            at += BLOCK - at % BLOCK
            continue
        _, length, place = struct.unpack_from("<IHB", raw, at)
        if not place:
            return
        yield place, raw[at + CHUNK_HEADER :][:length]
        at += CHUNK_HEADER + length
