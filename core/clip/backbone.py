"""Loading a backbone; the only module that uses open_clip's models.

A backbone is an open_clip name with a pretrained tag, an open_clip name with a local weights file,
or "mosaic", the embedded model that needs no download. open_clip is slow to import, so functions
import it when they need it: naming a method or checking a configuration does not.

No tensor shows whether a model was trained with quick-GELU, x * sigmoid(1.702 x), or with the exact
GELU; the wrong one costs points of accuracy in silence. What is used, in this order: OpenAI's
format (always quick-GELU); the metadata of the pretrained tag; the configuration beside the file
(``core/clip/maker.py``); the tag of which the file is a copy, by its place in the hub's cache, the
sha256 in the tag's address, or its tensors. A name with "-quickgelu" that contradicts these is an
error, and where they say nothing the name decides: with a note unless it has that ending.
"""

import functools
import logging
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from core import mosaic
from core.clip import product_choice, thread_choice
from core.clip.catalog import MOSAIC, QUICK, agreed_images, is_timm, model_config, some_tags
from core.clip.frozen import BATCH_COUNTERS, FrozenCLIP, TowerlessCLIP, feature_sizes
from core.clip.half_precision import HalfPrecision, keep_in_sight
from core.clip.maker import OPEN_CLIP_CONFIG, MakersWord, words_beside
from core.clip.open_clip_library import load_open_clip
from core.clip.tokenizer import AnyTokenizer, HubTokenizer, Tokenizer
from core.clip.transformers_clip import from_transformers, is_transformers
from core.clip.undrawn import LeftUndrawn
from core.clip.weights import (
    OPENAI_SIZES,
    cache_folder,
    cached_file,
    is_openai,
    read_state_dict,
    weights_path,
)
from core.finite import check_finite, check_real
from core.precision import HALF
from core.program import command_line
from core.store.checksums import file_sha256
from core.suggestions import did_you_mean
from core.tensor_files import DOWNLOAD, first_line

HUB_FOLDER = "models--"
SCALES = (1e-3, 1e4)  # of logits; a trained CLIP has about 100
MIN_DIGEST = 8  # hex digits of a sha256 in a tag's address

log = logging.getLogger(__name__)

# What a configuration says about training, or shows in the tensors of the file; whatever else
# differs makes another model of the same tensors.
TRAINING = frozenset(
    {"patch_dropout", "ls_init_value", "output_tokens", "attn_pooler_queries", "attn_pooler_heads"}
)
UNUSED_PARTS = ("timm_", "hf_")  # of towers that are not native; what names such a tower counts
FOREIGN = frozenset({"timm_model_name", "hf_model_name", "hf_tokenizer_name"})
TIMM_HEAD = frozenset({"timm_pool", "timm_proj", "timm_proj_bias"})  # these do, for timm's towers
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
TOP_LEVEL = frozenset(
    {
        "embed_dim",
        "vision_cfg",
        "text_cfg",
        "quick_gelu",
        "custom_text",
        "multimodal_cfg",
        "init_logit_scale",
        "init_logit_bias",
        "nonscalar_logit_scale",
        "cast_dtype",
        "output_dict",
        "preprocess_cfg",
    }
)
# Keyword arguments that state what a layer does without them.
DEFAULT_ARGUMENTS: Mapping[str, Mapping[str, Any]] = {
    "norm_kwargs": {"eps": 1e-5},
    "act_kwargs": {"approximate": "none"},
}
# What a different size of these tensors implies about the file.
SIZED_BY = {
    "visual.positional_embedding": "a different image size or patch size",
    "visual.attnpool.positional_embedding": "a different image size",
    "visual.trunk.pos_embed": "a different image size or patch size",
    "text.positional_embedding": "a different context length",
    "positional_embedding": "a different context length",
}


def build_open_clip(config: Mapping[str, Any]) -> nn.Module:
    """A randomly initialized open_clip ``CLIP`` of ``{embed_dim, vision_cfg, text_cfg,
    quick_gelu}``.
    """
    open_clip = load_open_clip()

    settings = dict(config)
    custom_text = settings.pop("custom_text", False)
    kind: Any = open_clip.CustomTextCLIP if custom_text else open_clip.CLIP
    model: nn.Module = kind(**settings)
    return model


@functools.cache
def feature_sizes_of(name: str) -> tuple[int, int]:
    """Patches and joint width of a backbone's features, without weights. Raises ValueError for an
    unknown or unsupported name.
    """
    if name == MOSAIC:
        spec = shared_clip(MOSAIC, None, "cpu", torch.float32).spec
        return spec.num_patches, spec.joint_width
    with torch.device("meta"):
        return feature_sizes(build_open_clip(model_config(name)), name)


def sized_clip(name: str) -> TowerlessCLIP:
    """A CLIP of the sizes of an open_clip name without weights, whose towers do not run: to count
    what a method learns on it. Raises ValueError for an unknown or unsupported name.
    """
    config = model_config(name)
    with torch.device("meta"):
        model = build_open_clip(config)
    model = model.to_empty(device="cpu")
    for value in model.state_dict().values():
        value.zero_()
    tokenizer = Tokenizer(config["text_cfg"].get("context_length", 77))
    return TowerlessCLIP(FrozenCLIP(model, tokenizer, name=name))


def load_clip(name: str, weights: str | None = None) -> FrozenCLIP:
    """A frozen backbone, float32 on the CPU. Never downloads; only ``fetch`` does.

    ``weights`` is a pretrained tag of open_clip that was fetched before, or the path of a local
    file or folder in one of the formats of ``core/clip/weights.py``. For "mosaic" it may be None
    (the shipped file). The clip's ``name`` shows the activation that was used.

    Raises ValueError for an unknown name or tag, a file that is missing, damaged or does not fit, a
    number that is not finite, a tower that does not run here (``core/clip/catalog.py``), and an
    activation that contradicts what is known of the weights, which would silently lower accuracy.
    """
    if name == MOSAIC:
        return _load_mosaic(Path(weights) if weights else mosaic.WEIGHTS_PATH)
    config = model_config(name)
    if weights is None:
        raise ValueError(
            f"backbone {name!r} needs weights: a pretrained tag ({some_tags(name)}) "
            "or the path to a file"
        )
    source: Mapping[str, Any] | None = None
    if _is_path(name, weights):
        path = weights_path(weights)
    else:
        source = pretrained_source(name, weights)
        path = _fetched(name, weights, source)
    state = read_state_dict(path)
    word = _about_tag(weights, source) if source is not None else _about_file(name, path, state)
    if is_transformers(state):
        state = _renamed(path, state, config)
    state = _as_built(state, config)
    if not word.normalization:
        word = replace(word, images={**agreed_images(name), **word.images})
    _check_word(name, config, word, path)
    if word.quick_gelu:
        name, config["quick_gelu"] = name.removesuffix(QUICK) + QUICK, True
    with LeftUndrawn():
        model: Any = build_open_clip(config)
    _load_weights(model, {k: v for k, v in state.items() if k not in OPENAI_SIZES}, str(path))
    _note_unknown(name, config, word, path)
    model.visual.preprocess_cfg = {**word.normalization, "squash": _squashes(config, word)}
    tokenizer = _tokenizer(config, path, name, weights)
    return FrozenCLIP(model, tokenizer, name=f"{name}/{weights}")


def _tokenizer(config: Mapping[str, Any], path: Path, name: str, weights: str) -> AnyTokenizer:
    """The tokenizer of a model: CLIP's, or its own, from the folder of the weights or the hub."""
    text = config["text_cfg"]
    context_length = text.get("context_length", 77)
    repository = text.get("hf_tokenizer_name")
    if repository is None:
        return Tokenizer(context_length)
    beside = all((path.parent / file).is_file() for file in TOKENIZER_FILES)
    files = f"put the files of {repository} ({', '.join(TOKENIZER_FILES)}) beside the weights"
    if pretrained := not _is_path(name, weights):
        files = f"fetch it with: {command_line('weights', name, weights)}"
    return HubTokenizer(
        path.parent if beside and not pretrained else repository,
        context_length,
        vocab_size=text["vocab_size"],
        settings=text.get("tokenizer_kwargs") or {},
        way_out=files,
    )


def _squashes(config: Mapping[str, Any], word: MakersWord) -> bool:
    """Whether images are resized without their aspect: for timm's towers, as their maker says."""
    return is_timm(config) and word.images.get("resize_mode") == "squash"


def _fetched(name: str, tag: str, source: Mapping[str, Any]) -> Path:
    path = cached_file(source)
    if path is None:
        raise ValueError(
            f"weights {tag!r} of {name!r} are not on this machine; fetch {about(name, tag)}"
            f" with: {command_line('weights', name, tag)}"
        )
    return path


def _renamed(path: Path, state: dict[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
    """A file of transformers with open_clip's names."""
    if is_timm(config):
        raise ValueError(
            f"weights {path} are in the format of transformers, which is read for CLIP alone; use "
            "the file of open_clip"
        )
    try:
        return from_transformers(state)
    except ValueError as error:
        raise ValueError(f"weights {path} do not fit the model: {error}") from error


def _as_built(state: dict[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
    """A state dict with the names and shapes of the model that is built.

    Files from before open_clip had a text tower of its own lack the prefix of its names, a scale
    may have one dimension too many, and counters of batches may be left out: nothing reads them.
    """
    if config.get("custom_text") and "positional_embedding" in state:
        kept = ("visual.", "logit_")
        state = {k if k.startswith(kept) else f"text.{k}": v for k, v in state.items()}
    for name in ("logit_scale", "logit_bias"):
        if name in state and state[name].numel() == 1 and is_timm(config):
            state = {**state, name: state[name].reshape(())}
    counters = {
        f"{name.removesuffix('running_mean')}{BATCH_COUNTERS}": torch.tensor(0)
        for name in state
        if name.endswith("running_mean")
    }
    return {**counters, **state}


def _about_tag(tag: str, source: Mapping[str, Any]) -> MakersWord:
    quick = bool(source.get("quick_gelu", False))
    return MakersWord(source=f"the pretrained tag {tag!r}", quick_gelu=quick, images=source)


def _about_file(name: str, path: Path, state: Mapping[str, Tensor]) -> MakersWord:
    """What is known of a local file."""
    if is_openai(state):
        return MakersWord(source="OpenAI's format", quick_gelu=True)
    beside = words_beside(path, transformers=is_transformers(state))
    if beside is not None:
        return beside
    tag = next(_tags_of_file(name, path, state), None)
    return MakersWord(source=str(path)) if tag is None else _about_tag(*tag)


def _tags_of_file(
    name: str, path: Path, state: Mapping[str, Tensor]
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The pretrained tags of a model of which a file is the file, or a copy, surest first."""
    open_clip = load_open_clip()

    base = name.removesuffix(QUICK)
    tags = [
        (tag, source)
        for model in (base, base + QUICK)
        for tag in open_clip.list_pretrained_tags_by_model(model)
        if (source := dict(open_clip.get_pretrained_cfg(model, tag)))
    ]
    places = {part for folder in (path.absolute(), path.resolve()) for part in folder.parts}
    for tag, source in tags:
        repository = source.get("hf_hub", "").rpartition("/")[0]
        if repository and HUB_FOLDER + repository.replace("/", "--") in places:
            yield tag, source
    digest = ""
    for tag, source in tags:
        if known := _digest_in(source.get("url", "")):
            digest = digest or file_sha256(path)
            if digest.startswith(known):
                yield tag, source
    for tag, source in tags:
        cached = cached_file(source)
        if cached is not None and _same_tensors(cached, state):
            yield tag, source


def _digest_in(url: str) -> str:
    """The sha256 of a file, or its beginning, in its address; open_clip checks the same."""
    *_, folder, file = ("", "", *url.split("/"))
    for text in (folder, Path(file).stem.rpartition("-")[2]):
        if len(text) >= MIN_DIGEST and all(c in "0123456789abcdef" for c in text):
            return text
    return ""


def _same_tensors(cached: Path, state: Mapping[str, Tensor]) -> bool:
    """Whether the file of a tag has the same numbers, in whatever format."""

    def plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        named = from_transformers(tensors) if is_transformers(tensors) else tensors
        return {name: value for name, value in named.items() if name not in OPENAI_SIZES}

    try:
        theirs, ours = plain(read_state_dict(cached)), plain(state)
    except ValueError:
        return False
    return theirs.keys() == ours.keys() and all(
        torch.equal(theirs[name].float(), ours[name].float()) for name in sorted(ours)
    )


def _check_word(name: str, config: Mapping[str, Any], word: MakersWord, path: Path) -> None:
    """Raise ValueError where the named model is not the maker's."""
    for key, (theirs, ours) in _differences(word.model, config).items():
        raise ValueError(
            f"weights {path} are of another model than {name!r}: {word.source} has {key} "
            f"{theirs}, the model {ours}; check the model name"
        )
    if name.endswith(QUICK) and word.quick_gelu is False:
        raise ValueError(
            f"weights {path} were trained without quick-GELU, as {word.source} says, but the model "
            f"{name!r} is built with it; use {name.removesuffix(QUICK)!r}"
        )


def _note_unknown(name: str, config: Mapping[str, Any], word: MakersWord, path: Path) -> None:
    """Say what was assumed, and what is done otherwise than the maker did."""
    if word.quick_gelu is None and not config.get("quick_gelu") and not is_timm(config):
        _note(
            f"weights {path}: whether they were trained with quick-GELU is unknown; taken as "
            f"without, as {name!r} says. If with: set experiment.backbone = {name + QUICK!r}; if "
            f"without: put the maker's {OPEN_CLIP_CONFIG} beside the file"
        )
    size = config["vision_cfg"].get("image_size", 224)
    squash = _squashes(config, word)
    if other := word.other_preparation(size, squash=squash):
        resized = f"to {size}" if squash else f"the shorter side to {size}), cropped to the center"
        _note(
            f"weights {path}: {word.source} prepares images with {other}; here RGB images are "
            f"resized (bicubic, {resized}{')' if squash else ''}, scaled to 0-1 and normalized"
        )


@functools.cache
def _note(text: str) -> None:
    """Log a note, once per process."""
    log.warning(text)


def _differences(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """What two descriptions of a model disagree on, with open_clip's defaults filled in.

    A key that is not known differs unless it is off: what it changes is not known either.
    """
    open_clip = load_open_clip()

    found: dict[str, tuple[Any, Any]] = {}
    if not theirs:
        return found
    widths = theirs.get("embed_dim"), ours.get("embed_dim")
    if widths[0] != widths[1]:
        found["embed_dim"] = widths
    for part, kind in (
        ("vision_cfg", open_clip.CLIPVisionCfg),
        ("text_cfg", open_clip.CLIPTextCfg),
    ):
        known = vars(kind())
        one, two = ({**known, **(c.get(part) or {})} for c in (theirs, ours))
        for key in one:
            pair = one[key], two.get(key)
            shaping = _shaping(key) or (key in TIMM_HEAD and is_timm(ours))
            if shaping and _plain(key, pair[0]) != _plain(key, pair[1]):
                found[f"{part}.{key}"] = pair
    unknown = {k: (v, None) for k, v in theirs.items() if k not in TOP_LEVEL}
    return found | {key: pair for key, pair in unknown.items() if _plain(key, pair[0]) is not None}


def _shaping(key: str) -> bool:
    return key in FOREIGN or not (key in TRAINING or key.startswith(UNUSED_PARTS))


def _plain(key: str, value: Any) -> Any:
    """A square size by its side; None for what is off, or says what a layer does anyway."""
    if isinstance(value, dict):
        default = DEFAULT_ARGUMENTS.get(key, {})
        return {k: v for k, v in value.items() if v != default.get(k)} or None
    if key == "hf_tokenizer_name":  # a copy of the same files may be in many repositories
        return value is not None
    if isinstance(value, list | tuple):
        return value[0] if value and all(side == value[0] for side in value) else list(value)
    return None if value is False else value


def shared_clip(name: str, weights: str | None, device: str, dtype: torch.dtype) -> FrozenCLIP:
    """``load_clip`` once per process and state of the file, on its device: runs share the frozen
    weights. Of half precision are the matrices alone, for use under autocast.
    """
    path = Path(weights).expanduser() if weights else mosaic.WEIGHTS_PATH
    status = path.stat() if path.is_file() else None
    stamp = (status.st_mtime_ns, status.st_size, status.st_ino) if status else ()
    clip = _shared_clip(name, weights, _numbered(device), dtype, stamp)
    thread_choice.choose(clip)
    product_choice.choose(clip)
    return clip


def _numbered(device: str) -> str:
    """The device with its number: "cuda" is the same as "cuda:0"."""
    return f"{device}:0" if device == "cuda" else device


# A student and its teacher on a GPU, in two precisions, beside what is read of them on the CPU.
@functools.lru_cache(maxsize=4)
def _shared_clip(
    name: str, weights: str | None, device: str, dtype: torch.dtype, stamp: tuple[int, ...]
) -> FrozenCLIP:
    if dtype not in HALF:
        return keep_in_sight(load_clip(name, weights).to(device, dtype))
    clip = load_clip(name, weights).to(device)
    clip.reduced = HalfPrecision(clip, dtype, partial(_reread, name, weights))
    return clip


def _reread(name: str, weights: str | None, clip: FrozenCLIP) -> FrozenCLIP:
    """A clip in half precision anew, with the weights as they are in their file.

    Raises ValueError where these are other ones by now.
    """
    whole = load_clip(name, weights).to(clip.scale.device)
    if whole.spec.fingerprint != clip.spec.fingerprint:
        raise ValueError(
            f"weights {weights} have changed while they are in use; put the former file back, or "
            "start again"
        )
    product_choice.use(whole, product_choice.product_of(clip))
    return whole


def pretrained_source(name: str, tag: str) -> dict[str, Any]:
    """open_clip's metadata of a tag: ``hf_hub`` or ``url``, ``mean``, ``std``, ``quick_gelu``.

    Raises ValueError for an unknown tag, and for weights without quick-GELU in a model whose name
    requests it.
    """
    open_clip = load_open_clip()

    quick = bool(model_config(name).get("quick_gelu", False))
    for model in (name, name.removesuffix(QUICK), name + QUICK):
        if not open_clip.pretrained.is_pretrained_cfg(model, tag):
            continue
        source: dict[str, Any] = dict(open_clip.get_pretrained_cfg(model, tag))
        source["quick_gelu"] = bool(source.get("quick_gelu", False))
        if quick and not source["quick_gelu"]:
            raise ValueError(
                f"weights {tag!r} were trained without quick-GELU, but the model {name!r} is built "
                f"with it; use {name.removesuffix(QUICK)!r}"
            )
        return source
    near = did_you_mean(tag, open_clip.list_pretrained_tags_by_model(name))
    raise ValueError(
        f"backbone {name!r} has no pretrained tag {tag!r}; known tags: {some_tags(name)}; "
        f"to use a local file, give its path including the suffix{near}"
    )


def about(name: str, tag: str) -> str:
    """The size of a tag's weights, their origin and their destination, for a message."""
    source = pretrained_source(name, tag)
    with torch.device("meta"):
        model = build_open_clip(model_config(name))
    megabytes = 4e-6 * sum(tensor.numel() for tensor in model.state_dict().values())
    origin = source.get("hf_hub") or source.get("url", "")
    return f"about {megabytes:.0f} MB from {origin.rstrip('/')} into {cache_folder(source)}"


def fetch(name: str, tag: str) -> Path:
    """Download a tag's weights unless they are present: the only function that uses the network.

    Returns the file. Raises ValueError for an unknown tag and where the download fails.
    """
    open_clip = load_open_clip()

    source = pretrained_source(name, tag)
    found = cached_file(source)
    if found is None:
        try:
            found = Path(open_clip.download_pretrained(source))
        except (OSError, RuntimeError) as error:
            raise ValueError(
                f"weights {tag!r} of {name!r} cannot be downloaded: {first_line(error)}; "
                "download the file elsewhere and give its path"
            ) from error
    if repository := model_config(name)["text_cfg"].get("hf_tokenizer_name"):
        _fetch_tokenizer(repository)
    return found


def write_random_weights(name: str, path: Path) -> None:
    """Write random weights of a named model to a safetensors file, for measurements of speed."""
    from safetensors.torch import save_model

    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        model = build_open_clip(model_config(name))
    path.parent.mkdir(parents=True, exist_ok=True)
    save_model(model, str(path))


def _fetch_tokenizer(repository: str) -> None:
    """Download the files of a tokenizer, small ones, into the hub's cache."""
    from huggingface_hub import snapshot_download

    try:
        snapshot_download(repository, allow_patterns=["*token*.json", "*.model", "special*.json"])
    except (OSError, ValueError) as error:
        raise ValueError(
            f"the tokenizer {repository} cannot be downloaded: {first_line(error)}; download its "
            "files elsewhere, put them beside the weights and give the path of the weights"
        ) from error


def _load_mosaic(path: Path) -> FrozenCLIP:
    if not path.is_file() and path == mosaic.WEIGHTS_PATH:
        raise ValueError(
            f"the embedded model's weights {path} are missing; restore the file or retrain it: "
            f"{command_line('pretrain')}"
        )
    with LeftUndrawn():
        model: Any = build_open_clip(mosaic.MODEL_CONFIG)
    _load_weights(model, read_state_dict(path), str(path))
    model.visual.preprocess_cfg = {"mean": mosaic.IMAGE_MEAN, "std": mosaic.IMAGE_STD}
    tokenizer = Tokenizer(
        mosaic.MODEL_CONFIG["text_cfg"]["context_length"], num_merges=mosaic.NUM_MERGES
    )
    return FrozenCLIP(model, tokenizer, name=MOSAIC)


def _load_weights(model: nn.Module, state: dict[str, Tensor], source: str) -> None:
    """Copy a state dict into a float32 model; every tensor must be present and fit."""
    own = model.state_dict()
    wrong = [key for key in own if key in state and own[key].shape != state[key].shape]
    for key in sorted(wrong, key=lambda key: key not in SIZED_BY):
        reason = SIZED_BY.get(key, "a different model")
        raise ValueError(
            f"weights {source} do not fit the model: {key!r} is {tuple(state[key].shape)} in the "
            f"file and {tuple(own[key].shape)} in the model ({reason}); check the model name"
        )
    missing, unknown = sorted(set(own) - set(state)), sorted(set(state) - set(own))
    for problem, keys in (("lacks", missing), ("has unknown", unknown)):
        if keys:
            raise ValueError(
                f"weights {source} do not fit the model: the file {problem} {len(keys)} tensors, "
                f"first {keys[0]!r}{_instead(unknown) if problem == 'lacks' else ''}; check the "
                "model name"
            )
    numbers = {key: state[key] for key, value in own.items() if value.is_floating_point()}
    check_real(numbers, f"weights {source}")
    model.load_state_dict(state)
    _check_scale(model.get_parameter("logit_scale"), source)


def _instead(unknown: list[str]) -> str:
    """The names that a file has in place of those it lacks."""
    return f", and has {len(unknown)} others, first {unknown[0]!r}" if unknown else ""


def _check_scale(log_scale: Tensor, source: str) -> None:
    """Raise ValueError for a scale that no training gives: CLIP keeps it at 100 or below."""
    scale = log_scale.detach().exp()
    what = f"weights {source}, exp(logit_scale)"
    check_finite({"logit_scale": scale}, what, f"the file is damaged; {DOWNLOAD}")
    smallest, largest = SCALES
    if not smallest <= float(scale.min()) <= float(scale.max()) <= largest:
        raise ValueError(
            f"{what} is {float(scale.max()):.3g}, but a trained CLIP has {smallest} to "
            f"{largest:.0f}: the file is damaged; {DOWNLOAD}"
        )


def _is_path(name: str, weights: str) -> bool:
    """Whether weights are a path; a known tag never is, whatever lies in the current folder."""
    open_clip = load_open_clip()

    models = (name, name.removesuffix(QUICK), name + QUICK)
    if any(open_clip.pretrained.is_pretrained_cfg(model, weights) for model in models):
        return False
    return "/" in weights or bool(Path(weights).suffix) or Path(weights).expanduser().exists()
