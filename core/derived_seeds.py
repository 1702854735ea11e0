"""Seeds derived from a run's seed and a purpose. Needs the standard library only."""

import hashlib


def derive_seed(seed: int, *purpose: str | int) -> int:
    """A 63-bit seed from a run's seed and the words of a purpose; the same on every machine."""
    text = "\x1f".join([str(seed), *map(str, purpose)])
    raw = text.encode("utf-8", "surrogateescape")  # a file name that is not UTF-8 keeps its bytes
    return int.from_bytes(hashlib.sha256(raw).digest()[:8], "big") >> 1
