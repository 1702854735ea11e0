"""What a mirror shows of one run: settings, scores, epochs, tags and files. Written once for all
mirrors, whatever their libraries accept.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from xml.sax.saxutils import escape

from core.metrics import harmonic_mean
from core.store.checksums import file_sha256
from core.store.epochs import numbers_of, read_epochs
from core.store.names import (
    CONFIG_NAME,
    EPOCHS_NAME,
    FIGURES_FOLDER,
    INSPECTION_NAME,
    OUTPUT_NAME,
    RECORD_NAME,
)
from core.store.record import RunRecord, to_json
from core.store.secrets import without_secrets
from core.store.settings import has_config, plain_value, read_config, read_operative

IDENTITY_TAG = "refinelab.identity"
TRAINING_PREFIX = "train/"

CURVES_NAME = "training.svg"
NOT_CURVES = ("epoch", "epochs")
WIDTH, HEIGHT, MARGIN = 480, 300, 48
INKS = ("#1b6ca8", "#d1495b", "#3a7d44", "#8e6c8a", "#c77d0a", "#555555")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunDescription:
    """One run for a mirror.

    ``settings`` are the operative ones, defaults included, and the factor levels, as plain text
    without passwords. ``metrics`` are the final scores and costs; ``epochs`` the training log, one
    mapping per epoch. ``place`` is empty, or the folder of a run outside the folder of runs, where
    another run of the same identity may be. ``start`` and ``end`` are milliseconds since 1970.
    ``digest`` changes with anything that is described.
    """

    folder: Path
    place: str
    identity: str
    variant: str
    name: str
    status: str
    settings: Mapping[str, str]
    metrics: Mapping[str, float]
    epochs: tuple[Mapping[str, float], ...]
    tags: Mapping[str, str]
    start: int
    end: int
    digest: str

    def write_artifacts(self, folder: Path) -> None:
        """Write the configuration, the logs and the figures of the run into an empty folder."""
        for name, text in _texts(self.folder):
            (folder / name).write_text(text, encoding="utf-8")
        figures = folder / FIGURES_FOLDER
        figures.mkdir()
        if self.epochs:
            (figures / CURVES_NAME).write_text(draw_curves(self.epochs), encoding="utf-8")
        for path in _figures(self.folder):
            (figures / path.name).write_bytes(path.read_bytes())


def describe_run(run_dir: Path, record: RunRecord, place: str = "") -> RunDescription:
    """Everything that a mirror shows of a run. Raises ValueError for a damaged file of it."""
    tags = tags_of(record)
    end = (run_dir / RECORD_NAME).stat().st_mtime_ns // 1_000_000
    seconds = record.cost.total_seconds if record.cost else 0.0
    return RunDescription(
        folder=run_dir,
        place=place,
        identity=record.identity,
        variant=record.variant,
        name=f"{record.variant}, {record.dataset}, {tags['seed']}",
        status=record.status,
        settings=settings_of(run_dir, record),
        metrics=scores_of(record),
        epochs=tuple(epochs_of(run_dir)),
        tags=tags,
        start=end - int(1000 * seconds),
        end=end,
        digest=_digest(run_dir, record),
    )


def settings_of(run_dir: Path, record: RunRecord) -> dict[str, str]:
    """The run's settings in force and its factor levels, without quotes and passwords."""
    operative = read_operative(run_dir).settings if has_config(run_dir) else {}
    settings = {**operative, **record.factors}
    return {key: without_secrets(plain_value(value)) for key, value in settings.items()}


def scores_of(record: RunRecord) -> dict[str, float]:
    """Accuracy on every target, the harmonic mean where it is defined, and the cost."""
    scores = {e.target: e.accuracy for e in record.evaluations}
    base, new = record.accuracy("base"), record.accuracy("new")
    if base is not None and new is not None:
        scores["hm"] = harmonic_mean(base, new)
    if record.cost is not None:
        scores |= {f"cost.{key}": float(value) for key, value in asdict(record.cost).items()}
    return scores


def epochs_of(run_dir: Path) -> Iterator[dict[str, float]]:
    """The numbers of the training log, one mapping per epoch."""
    yield from map(numbers_of, read_epochs(run_dir))


def tags_of(record: RunRecord) -> dict[str, str]:
    """What identifies a run."""
    return {
        IDENTITY_TAG: record.identity,
        "variant": record.variant,
        "dataset": record.dataset,
        "protocol": record.protocol,
        "regime": record.regime,
        "selection": record.selection,
        "seed": "no seed" if record.seed is None else f"seed {record.seed}",
        "status": record.status,
        "message": without_secrets(record.message),
    }


def _texts(run_dir: Path) -> Iterator[tuple[str, str]]:
    """The text files of a run by name, without passwords."""
    if has_config(run_dir):
        yield CONFIG_NAME, without_secrets(read_config(run_dir))
    for name in (EPOCHS_NAME, OUTPUT_NAME):
        if (run_dir / name).is_file():
            text = (run_dir / name).read_text(encoding="utf-8", errors="replace")
            yield name, without_secrets(text)


def _figures(run_dir: Path) -> list[Path]:
    """What ``inspect`` has shown of a run."""
    return sorted(path for path in (run_dir / INSPECTION_NAME).glob("*") if path.is_file())


def _digest(run_dir: Path, record: RunRecord) -> str:
    """A hash of the record and of the figures, which may come later."""
    figures = {path.name: file_sha256(path) for path in _figures(run_dir)}
    content = json.dumps([to_json(record), figures], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def draw_curves(epochs: Sequence[Mapping[str, float]]) -> str:
    """The losses of every epoch as an SVG, each curve scaled to its own range."""
    logged = dict.fromkeys(key for epoch in epochs for key in epoch)
    names = [key for key in logged if key not in NOT_CURVES]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="11">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{WIDTH / 2}" y="{HEIGHT - 10}" text-anchor="middle">epoch 1 to {len(epochs)}; '
        "each curve is scaled to its own range</text>",
    ]
    for row, name in enumerate(names):
        values = [epoch.get(name, math.nan) for epoch in epochs]
        parts += _curve(name, values, row)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _curve(name: str, values: Sequence[float], row: int) -> list[str]:
    """One polyline and its line of the legend; epochs without a finite value are left out."""
    finite = [(at, value) for at, value in enumerate(values) if math.isfinite(value)]
    if not finite:
        return []
    low, high = min(v for _, v in finite), max(v for _, v in finite)
    across = (WIDTH - 2 * MARGIN) / max(len(values) - 1, 1)
    up = (HEIGHT - 2 * MARGIN) / ((high - low) or 1.0)
    points = " ".join(
        f"{MARGIN + at * across:.1f},{HEIGHT - MARGIN - (value - low) * up:.1f}"
        for at, value in finite
    )
    ink = INKS[row % len(INKS)]
    label = escape(f"{name}: {low:.4g} to {high:.4g}")
    return [
        f'<polyline points="{points}" fill="none" stroke="{ink}" stroke-width="1.5"/>',
        f'<text x="{MARGIN}" y="{16 + 13 * row}" fill="{ink}">{label}</text>',
    ]
