"""The findings of ``gpu-check`` as a page in Markdown."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]

SPEED = {
    "method": "method",
    "backbone": "backbone",
    "refiner": "refiner",
    "images": "images",
    "precision": "precision",
    "batch_size": "batch size",
    "parameters": "parameters",
    "step_ms": "ms per step",
    "graph_ms": "ms as a CUDA graph",
    "images_per_second": "images/s",
    "share": "share of the matrix rate",
    "waits": "waits per step",
    "peak_mb": "peak MiB",
    "evaluated_per_second": "evaluation, images/s",
}
AGREEMENT = {
    "method": "method",
    "refiner": "refiner",
    "steps": "steps",
    "loss": "loss",
    "logits": "logits",
    "agree": "equal predictions",
    "bfloat16_same": "equal in bfloat16",
    "graph": "as a CUDA graph",
    "ok": "verdict",
}
GRID = {
    "name": "grid",
    "runs": "runs",
    "seconds": "seconds",
    "runs_per_minute": "runs per minute",
    "counts_off": "counts that differ",
}
FAULTS = {
    "fault": "fault",
    "ended": "its job",
    "attempts": "attempts",
    "others": "others done at once",
    "seconds": "seconds",
    "ok": "verdict",
}
FEATURES = {
    "backbone": "backbone",
    "what": "what",
    "precision": "precision",
    "encoded_per_second": "encoded, images/s",
    "share": "share of the matrix rate",
    "extracted_per_second": "with decoding, images/s",
    "decoded_per_second": "decoded, images/s",
    "cores": "cores",
}
RATES = {
    "float32_tflops": "float32 matrix product, TFLOP/s",
    "bfloat16_tflops": "bfloat16 matrix product, TFLOP/s",
    "copy_gb_per_second": "copy, GB/s read and written",
}
ABSENT = "–"
ERROR = "error"


def page(found: Mapping[str, Any]) -> str:
    """The whole page; sections that found nothing are left out."""
    lines = ["# Check of a device", "", *_head(found)]
    if rows := found["agreement"]:
        lines += [
            "",
            "## The same on the CPU and on the device",
            "",
            "A few training steps on the embedded backbone. Loss and logits: the largest difference"
            " in float32, relative to the largest value.",
            "",
            *_table(AGREEMENT, map(_agreement_row, rows)),
        ]
    if rows := found["faults"]:
        lines += [
            "",
            "## What workers survive",
            "",
            "One job is killed, needs more memory than there is, or breaks the device; four others "
            "run beside and after it, on two workers.",
            "",
            *_table(FAULTS, map(_verdict_row, rows)),
        ]
    if rows := found["features"]:
        lines += ["", "## Features and decoding", "", *_table(FEATURES, rows)]
    if rows := found["grid"]:
        lines += ["", "## A small grid", "", *_table(GRID, rows)]
    if rows := found["speed"]:
        lines += [
            "",
            "## A training step",
            "",
            "Random weights, 50 classes, published batch sizes, medians; peak memory includes the "
            "frozen weights. Images: 'pixels' are encoded in every step, as published, 'cached' is "
            "training on frozen features. The share is that of the arithmetic of matrix products, "
            "convolutions and attention in the rate measured above. What the time did not suffice "
            "for is the end of this list: refiners first, then the larger backbones.",
            "",
            *_table(SPEED, rows),
        ]
    return "\n".join(lines) + "\n"


def _head(found: Mapping[str, Any]) -> Iterable[str]:
    for row in found["machine"]:
        if row.get("error"):
            yield f"The device could not be measured: {row['error']}"
            continue
        yield (
            f"{row['device']}; driver {row['driver'] or ABSENT}, CUDA {row['cuda'] or ABSENT}, "
            f"cuDNN {row['cudnn'] or ABSENT}, torch {row['torch']}, Python {row['python']}."
        )
        rates = (f"{text}: {row[key]:.1f}" for key, text in RATES.items())
        yield f"{'; '.join(rates)}."


def _verdict_row(row: Row) -> Row:
    """A row with its verdict in words."""
    return row if row.get("error") else {**row, "ok": "ok" if row["ok"] else "NOT AS IT SHOULD"}


def _agreement_row(row: Row) -> Row:
    if row.get("error"):
        return row
    images = row["images"]
    return {
        **row,
        "loss": f"{row['loss']:.1e}",
        "logits": f"{row['logits']:.1e}",
        "agree": f"{row['agree']} of {images}",
        "bfloat16_same": f"{row['bfloat16_same']} of {images}",
        "graph": _graph(row),
        "ok": "ok" if row["ok"] else "DIFFERS",
    }


def _graph(row: Row) -> str | None:
    """Whether steps were replayed, and whether that changed anything."""
    if "graph" not in row:
        return None
    return f"{row['graph']}; {'equal bits' if row['graph_same'] else 'OTHER NUMBERS'}"


def _table(columns: Mapping[str, str], rows: Iterable[Row]) -> Iterable[str]:
    """A table of what was found; a last column says what went wrong, where anything did."""
    rows = list(rows)
    first, *others = [*columns, ERROR]
    shown = [first, *(key for key in others if any(key in row for row in rows))]
    yield _line([columns.get(key, key) for key in shown])
    yield _line(["---"] * len(shown))
    for row in rows:
        yield _line([_cell(row.get(key, "" if key == ERROR else None)) for key in shown])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(value: Any) -> str:
    if value is None:
        return ABSENT
    if isinstance(value, float):
        return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value).replace("|", "\\|")
