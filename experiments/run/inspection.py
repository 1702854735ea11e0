"""What one finished run has learned: its errors, its memory, its attention and its context words.

Letters: N images, P patches, M slots, C classes, D joint width, V words of the vocabulary, W text
width.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from core.clip.frozen import FrozenCLIP
from core.data.dataset import Dataset, Item
from core.data.pixels import load_pixels
from core.data.splits import class_subset
from core.data.transforms import EvalTransform
from core.precision import in_full_precision
from core.store.epochs import read_epochs
from core.store.inspection import (
    AttentionView,
    ConfusedPair,
    ContextView,
    Inspection,
    Neighbor,
    ShownImage,
    SlotPatch,
    SlotView,
)
from core.store.predictions import CONFIDENCE_STEPS, PredictedClasses, read_predictions
from core.store.record import RunRecord, read_record
from core.store.settings import read_config, read_settings
from core.types import Batch, FeatureSpec, Forward, Memory
from experiments.run.run import Assembly, reload, score_images, scoring
from experiments.run.runtime import Runtime

DEFAULT_IMAGES = 128
CHUNK = 32
MAX_SLOTS, MAX_PATCHES = 12, 6
MAX_ATTENTION = 9
MAX_PAIRS, MAX_EXAMPLES = 6, 5
MAX_TEXTS, MAX_WORDS, MAX_VECTORS = 2, 5, 32
LOCAL_FIELDS = frozenset({"pooled", "local", "attention"})


def inspect_run(
    run_dir: Path,
    runtime: Runtime,
    *,
    num_images: int = DEFAULT_IMAGES,
    allow_changed: bool = False,
) -> Inspection:
    """Everything that can be shown of a finished run. Trains nothing and writes nothing.

    ``num_images`` test images of the run's own dataset, spread evenly over its test list, are
    searched for patches. Raises ValueError for a folder that is not that of a finished run, and,
    unless ``allow_changed``, where what the run depended on has changed; the scores are then those
    of now.
    """
    if num_images < 1:
        raise ValueError(f"images must be at least 1, got {num_images}")
    record = read_finished(run_dir)
    built = reload(run_dir, runtime, allow_changed=allow_changed)
    predictions = {} if built.changes else read_predictions(run_dir)
    if not predictions:
        scores = [score_images(built, *scored) for scored in built.scored()]
        predictions = {score.predicted.target: score.predicted for score in scores}
        record = replace(record, evaluations=tuple(score.evaluation for score in scores))
    missing: dict[str, str] = {}
    if built.changes:
        record = replace(record, message=f"changed since the run: {'; '.join(built.changes)}")
    with torch.no_grad():
        looked = _look(built, num_images, missing)
        slots = _slots(built, looked, missing)
        return Inspection(
            record=record,
            settings=read_settings(run_dir),
            predictions=tuple(predictions.values()),
            epochs=tuple(read_epochs(run_dir)),
            confused=tuple(_confused(built, record, predictions.values())),
            num_images=len(looked.items),
            num_patches=built.model.method.clip.spec.num_patches,
            num_slots=0 if looked.memory is None else len(looked.memory.slots),
            slot_cosine=_mean_cosine(looked.memory),
            slots=slots,
            attention=tuple(_attention(built, looked, missing)),
            context=tuple(_context(built, missing)),
            not_shown=missing,
        )


def read_finished(run_dir: Path) -> RunRecord:
    """The record of a finished run. Raises ValueError for any other folder."""
    read_config(run_dir)
    record = read_record(run_dir)
    if record is None or record.status != "finished":
        state = "has no record" if record is None else f"has the status {record.status!r}"
        raise ValueError(f"{run_dir} {state}: give the folder of a run that has finished")
    return record


def _confused(
    built: Assembly, record: RunRecord, predictions: Iterable[PredictedClasses]
) -> Iterator[ConfusedPair]:
    """The most frequent confusions of every evaluation, with the most confident examples."""
    parts = {e.target: e for e in record.evaluations}
    tested = dict(zip((e.target for e in record.evaluations), built.scored(), strict=True))
    for predicted in predictions:
        part = class_subset(*tested[predicted.target])
        names, totals = predicted.class_names, parts[predicted.target].total
        pairs = zip(predicted.labels, predicted.predicted, strict=True)
        counts = Counter(pair for pair in pairs if pair[0] != pair[1])
        for (true, wrong), count in counts.most_common(MAX_PAIRS):
            rows = [
                i
                for i, pair in enumerate(zip(predicted.labels, predicted.predicted, strict=True))
                if pair == (true, wrong)
            ]
            rows.sort(key=lambda i: (-predicted.confidences[i], i))
            yield ConfusedPair(
                dataset=parts[predicted.target].dataset,
                subset=parts[predicted.target].classes,
                true=names[true],
                predicted=names[wrong],
                count=count,
                images=totals[true],
                examples=tuple(_examples(built, part, predicted, rows[:MAX_EXAMPLES])),
            )


def _examples(
    built: Assembly, part: Dataset, predicted: PredictedClasses, rows: Sequence[int]
) -> Iterator[ShownImage]:
    spec = built.model.method.clip.spec
    items = [part.test[i] for i in rows]
    pixels = load_pixels(part, items, EvalTransform(spec))
    for i, item, image in zip(rows, items, _visible(pixels, spec), strict=True):
        yield ShownImage(
            path=item.path,
            true=predicted.class_names[predicted.labels[i]],
            predicted=predicted.class_names[predicted.predicted[i]],
            confidence=predicted.confidences[i] / CONFIDENCE_STEPS,
            png=_png(image),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Looked:
    """What the model makes of the images that are searched for patches, on the CPU.

    ``texts_CD`` are unit class texts of the base method (their mean over images where they depend
    on the image). ``similarity_NM`` and ``patch_NM`` are the largest cosine of a slot to any patch
    of an image and that patch, ``nearest_NP`` the nearest slot of a patch. What does not exist is
    None.
    """

    part: Dataset
    items: Sequence[Item]
    texts_CD: Tensor
    predicted_N: Tensor
    confidence_N: Tensor
    attention_NP: Tensor | None
    memory: Memory | None
    similarity_NM: Tensor | None
    patch_NM: Tensor | None
    nearest_NP: Tensor | None


def _look(built: Assembly, num_images: int, missing: dict[str, str]) -> Looked:
    """Run the model on test images of all classes of its own dataset."""
    part = class_subset(built.dataset, "all")
    count = min(num_images, len(part.test))
    items = [part.test[i * len(part.test) // count] for i in range(count)]
    method, refiner = built.model.method, built.model.refiner
    memory = refiner.memory()
    rows: dict[str, list[Tensor]] = {}
    with scoring(built, part):
        for batch in _pixel_batches(built, part, items):
            out = method(batch)
            confidence_B, predicted_B = refiner(out).logits().float().softmax(dim=-1).max(dim=-1)
            found = {"predicted": predicted_B, "confidence": confidence_B, **_patches(out)}
            if memory is not None and (tokens := refiner.memory_tokens(out)) is not None:
                found |= _compare(tokens, memory)
            found["text"] = (out.text if out.text.dim() == 3 else out.text[None]).sum(dim=0)[None]
            for name, value in found.items():
                rows.setdefault(name, []).append(value.float().cpu())
    joined = {name: torch.cat(values) for name, values in rows.items()}
    if method.adapts_to:
        missing["adaptation"] = f"predictions here are those before {type(method).__name__} adapts"
    if memory is None:
        missing["memory"] = (
            f"the refiner ({type(refiner).__name__}) has no memory, or nothing was written into it"
        )
    elif "nearest" not in joined:
        missing["patches"] = f"{type(method).__name__} gives no local tokens of its images"
    return Looked(
        part=part,
        items=items,
        texts_CD=F.normalize(joined["text"].sum(dim=0), dim=-1),
        predicted_N=joined["predicted"].long(),
        confidence_N=joined["confidence"],
        attention_NP=joined.get("attention"),
        memory=memory,
        similarity_NM=joined.get("similarity"),
        patch_NM=joined["patch"].long() if "patch" in joined else None,
        nearest_NP=joined["nearest"].long() if "nearest" in joined else None,
    )


def _patches(out: Forward) -> dict[str, Tensor]:
    return {} if out.attention is None else {"attention": out.attention}


def _compare(tokens_BTD: Tensor, memory: Memory) -> dict[str, Tensor]:
    """Cosines of the patches of a batch to all slots, reduced to what is shown."""
    patches_BPD = F.normalize(tokens_BTD[:, 1:].float(), dim=-1)
    slots_MD = F.normalize(memory.slots.float(), dim=-1)
    cosine_BPM = in_full_precision(torch.matmul, patches_BPD, slots_MD.t())
    similarity_BM, patch_BM = cosine_BPM.max(dim=1)
    nearest_BP = cosine_BPM.argmax(dim=-1)
    return {"similarity": similarity_BM, "patch": patch_BM, "nearest": nearest_BP}


def _pixel_batches(built: Assembly, part: Dataset, items: Sequence[Item]) -> Iterator[Batch]:
    """Pixels of the images, with the request for all fields that the method provides."""
    method = built.model.method
    scale, need = method.clip.scale, LOCAL_FIELDS & (method.output().provides | {"pooled"})
    for start in range(0, len(items), CHUNK):
        chunk = items[start : start + CHUNK]
        pixels = load_pixels(part, chunk, EvalTransform(method.clip.spec))
        labels = torch.tensor([item.label for item in chunk], device=scale.device)
        yield Batch(labels=labels, pixels=pixels.to(scale.device, scale.dtype), need=need)


def _slots(built: Assembly, looked: Looked, missing: dict[str, str]) -> tuple[SlotView, ...]:
    """The slots that are nearest to most patches, or the first ones where that is unknown."""
    memory = looked.memory
    if memory is None:
        return ()
    slots_MD = F.normalize(memory.slots.float().cpu(), dim=-1)
    shares_M = torch.zeros(len(slots_MD))
    if looked.nearest_NP is not None:
        counts = torch.bincount(looked.nearest_NP.flatten(), minlength=len(slots_MD))
        shares_M = counts / looked.nearest_NP.numel()
    order = shares_M.argsort(descending=True, stable=True)[:MAX_SLOTS].tolist()
    cosine_MC = slots_MD @ looked.texts_CD.t()
    names = looked.part.class_names
    trained = class_subset(built.dataset, built.trained_subset).class_names
    views = []
    for slot in order:
        label = "" if memory.labels is None else trained[int(memory.labels[slot])]
        best = cosine_MC[slot].topk(min(MAX_TEXTS, len(names)))
        views.append(
            SlotView(
                slot=slot,
                label=label,
                share=float(shares_M[slot]),
                texts=_neighbors(names, best.indices, best.values),
                patches=tuple(_slot_patches(built, looked, slot)),
            )
        )
    return tuple(views)


def _neighbors(names: Sequence[str], indices: Tensor, values: Tensor) -> tuple[Neighbor, ...]:
    pairs = zip(indices.tolist(), values.tolist(), strict=True)
    return tuple(Neighbor(name=names[i], value=float(v)) for i, v in pairs)


def _slot_patches(built: Assembly, looked: Looked, slot: int) -> Iterator[SlotPatch]:
    """The patches nearest to a slot, at most one of an image."""
    if looked.similarity_NM is None or looked.patch_NM is None:
        return
    best = looked.similarity_NM[:, slot].topk(min(MAX_PATCHES, len(looked.items)))
    spec = built.model.method.clip.spec
    items = [looked.items[i] for i in best.indices.tolist()]
    pixels = load_pixels(looked.part, items, EvalTransform(spec))
    places = looked.patch_NM[best.indices, slot].tolist()
    images = _visible(pixels, spec)
    for item, image, place, cosine in zip(items, images, places, best.values.tolist(), strict=True):
        crop, box = _surroundings(image, place, spec)
        yield SlotPatch(
            path=item.path,
            true=looked.part.class_names[item.label],
            cosine=float(cosine),
            box=box,
            png=_png(crop),
        )


def _surroundings(
    image: Image.Image, place: int, spec: FeatureSpec
) -> tuple[Image.Image, tuple[float, float, float, float]]:
    """A patch with one patch around it, moved inwards at an edge; and where the patch is in it."""
    rows, columns = spec.grid
    row, column = divmod(place, columns)
    high, wide = min(3, rows), min(3, columns)
    top, left = min(max(row - 1, 0), rows - high), min(max(column - 1, 0), columns - wide)
    height, width = image.height / rows, image.width / columns
    corners = (left * width, top * height, (left + wide) * width, (top + high) * height)
    x0, y0, x1, y1 = (round(c) for c in corners)
    box = (
        (column - left) / wide,
        (row - top) / high,
        (column - left + 1) / wide,
        (row - top + 1) / high,
    )
    return image.crop((x0, y0, x1, y1)), box


def _mean_cosine(memory: Memory | None) -> float | None:
    """The mean cosine between two different slots; None for fewer than two."""
    if memory is None or len(memory.slots) < 2:
        return None
    unit_MD = F.normalize(memory.slots.float(), dim=-1)
    total = float((unit_MD @ unit_MD.t()).sum()) - len(unit_MD)
    return total / (len(unit_MD) * (len(unit_MD) - 1))


def _attention(built: Assembly, looked: Looked, missing: dict[str, str]) -> Iterator[AttentionView]:
    """Attention of CLS for images that are spread over the classes."""
    if looked.attention_NP is None:
        method = type(built.model.method).__name__
        missing["attention"] = f"{method} gives no attention of its image tower"
        return
    spec, count = built.model.method.clip.spec, min(MAX_ATTENTION, len(looked.items))
    rows = [i * len(looked.items) // count for i in range(count)]
    items = [looked.items[i] for i in rows]
    pixels = load_pixels(looked.part, items, EvalTransform(spec))
    names = looked.part.class_names
    for i, item, image in zip(rows, items, _visible(pixels, spec), strict=True):
        yield AttentionView(
            image=ShownImage(
                path=item.path,
                true=names[item.label],
                predicted=names[int(looked.predicted_N[i])],
                confidence=float(looked.confidence_N[i]),
                png=_png(image),
            ),
            grid=spec.grid,
            attention=tuple(looked.attention_NP[i].tolist()),
            slots=() if looked.nearest_NP is None else tuple(looked.nearest_NP[i].tolist()),
        )


def _context(built: Assembly, missing: dict[str, str]) -> Iterator[ContextView]:
    """The nearest words of every context vector, by cosine and by Euclidean distance."""
    method = built.model.method
    learned = method.context_vectors()
    if not learned:
        missing["context"] = (
            f"{type(method).__name__} learns no context vectors at the input of the text tower"
        )
        return
    words = [word.strip() or repr(word) for word in method.clip.tokenizer.words()]
    table_VW = _vocabulary(method.clip)
    for name, vector_W in _named_vectors(built, learned)[:MAX_VECTORS]:
        cosine_V = F.normalize(table_VW, dim=-1) @ F.normalize(vector_W, dim=-1)
        distance_V = (table_VW - vector_W).norm(dim=-1)
        near, close = cosine_V.topk(MAX_WORDS), distance_V.topk(MAX_WORDS, largest=False)
        yield ContextView(
            name=name,
            by_cosine=_neighbors(words, near.indices, near.values),
            by_distance=_neighbors(words, close.indices, close.values),
        )


def _vocabulary(clip: FrozenCLIP) -> Tensor:
    """Token embeddings (V, W) of all ids, float32 on the CPU."""
    ids = torch.arange(clip.tokenizer.vocab_size, device=clip.scale.device)
    return clip.embed_tokens(ids).float().cpu()


def _named_vectors(built: Assembly, learned: Mapping[str, Tensor]) -> list[tuple[str, Tensor]]:
    """Every context vector by a name for readers; class by class where each has its own."""
    names, found = built.model.method.classes.names, []
    for name, vectors in learned.items():
        vectors = vectors.detach().float().cpu()
        owners = [""] if vectors.dim() == 2 else [f", {owner}" for owner in names]
        for owner, own in zip(owners, vectors.reshape(-1, *vectors.shape[-2:]), strict=True):
            found += [(f"{name} {i}{owner}", vector) for i, vector in enumerate(own, start=1)]
    return found


def _visible(pixels_NCHW: Tensor, spec: FeatureSpec) -> list[Image.Image]:
    """Normalized pixels as the images that the model sees."""
    mean, std = torch.tensor(spec.image_mean), torch.tensor(spec.image_std)
    colors = pixels_NCHW.permute(0, 2, 3, 1) * std + mean
    levels = (colors * 255).round().clamp(0, 255).to(torch.uint8)
    return [Image.fromarray(image.numpy()) for image in levels]


def _png(image: Image.Image) -> bytes:
    buffer = BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()
