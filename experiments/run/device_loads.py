"""What feeds a device, and what breaks a run on it: measurements from a plain payload to a plain
result, like those of ``device_cases``. B images.

* ``features``: images per second of a frozen image tower, on the device and with decoding.
* ``decode``: images per second that this process decodes.
* ``fault``: a job that ends its process, breaks its device, or needs more memory than there is.
"""

import os
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from core.clip.backbone import shared_clip
from core.clip.features import FeatureStore
from core.data.catalog import load_dataset
from core.data.dataset import Dataset
from core.data.pixels import iter_pixels
from core.data.transforms import EvalTransform
from core.machine import share_of_cores
from experiments.run.device_timing import counting, median_seconds, synchronize
from experiments.run.runtime import Runtime

BATCH_SIZE = 64
TOO_MANY_BYTES = 2**50
FINE = "fine"


def features(
    *, device: str, precision: str, backbone: str, weights: str | None, tree: str, cache_dir: str
) -> dict[str, Any]:
    """A frozen image tower: on a batch that is on the device, and on a tree of image files."""
    runtime = Runtime(cache_dir=Path(cache_dir), device=device)
    place, low = torch.device(device), precision == "bfloat16"
    clip = shared_clip(backbone, weights, runtime.device, torch.float32)
    pixels_BCHW = torch.zeros(BATCH_SIZE, 3, *clip.spec.image_size, device=place)

    def encode() -> None:
        with torch.no_grad(), runtime.autocast("bfloat16" if low else "float32"):
            clip.encode_image(pixels_BCHW)

    seconds = median_seconds(place, encode)
    with counting() as counts:
        encode()
    found = {
        "batch_size": BATCH_SIZE,
        "encoded_per_second": BATCH_SIZE / seconds,
        "tflops": 1e-12 * counts.flops / seconds,
    }
    dataset = _images(tree, cache_dir)
    with tempfile.TemporaryDirectory(dir=cache_dir) as folder:  # nothing is there already
        store = FeatureStore(Path(folder), clip, device=place, mixed=low)
        started = time.perf_counter()
        store.get(dataset, dataset.test, batch_size=BATCH_SIZE)
        found["extracted_per_second"] = len(dataset.test) / (time.perf_counter() - started)
    return found


def decode(*, backbone: str, weights: str | None, tree: str, cache_dir: str) -> dict[str, Any]:
    """The test images of a tree, as a backbone sees them."""
    clip = shared_clip(backbone, weights, "cpu", torch.float32)
    dataset = _images(tree, cache_dir)
    started = time.perf_counter()
    batches = iter_pixels(dataset, dataset.test, EvalTransform(clip.spec), batch_size=BATCH_SIZE)
    number = sum(len(pixels_BCHW) for pixels_BCHW in batches)
    seconds = time.perf_counter() - started
    return {"decoded_per_second": number / seconds, "cores": share_of_cores()}


def _images(tree: str, cache_dir: str) -> Dataset:
    return load_dataset(f"folder/{tree}", root=None, cache_dir=Path(cache_dir))


def fault(*, kind: str, device: str, marks: str) -> dict[str, Any]:
    """A job that computes a little and then, once or always, does what its ``kind`` says: "kill"
    (once), "assert", "memory"; "fine" does nothing else. ``marks`` is a folder of their own.
    """
    place = torch.device(Runtime(cache_dir=Path(), device=device).device)
    matrix = torch.ones(64, 64, device=place)
    right = bool((matrix @ matrix == 64).all())
    killed = Path(marks) / "killed"
    if kind == "kill" and not killed.exists():
        killed.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "assert":
        torch.zeros(1, device=place)[torch.tensor([5], device=place)]
        synchronize(place)
    if kind == "memory":
        torch.empty(TOO_MANY_BYTES, dtype=torch.uint8, device=place)
    return {"pid": os.getpid(), "right": right}
