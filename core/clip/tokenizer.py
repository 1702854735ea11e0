"""Text to ids: CLIP's vocabulary, a smaller one for the embedded model, and those of SigLIP."""

import copy
import functools
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from core.clip.open_clip_library import load_open_clip
from core.tensor_files import first_line

SPECIAL = ("<start_of_text>", "<end_of_text>")


class LongTextError(ValueError):
    """A text has more tokens than the context."""


class AnyTokenizer(ABC):
    """Turns texts into ids of one length.

    ``num_start`` tokens stand in front of every text; ``vocab_size`` counts the ids.
    """

    context_length: int
    vocab_size: int
    num_start: int

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """Ids of one text without start, end or padding."""

    @abstractmethod
    def words(self) -> list[str]:
        """The text of every id, in order; a space shows where a word begins or ends."""

    @abstractmethod
    def _padded(self, texts: list[str]) -> Tensor:
        """Ids ``(len(texts), context_length)`` int64 of texts that fit."""

    @abstractmethod
    def _count(self, text: str) -> int:
        """How many ids a text has with start and end."""

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Ids ``(len(texts), context_length)`` int64: start, text, end, padding.

        Raises LongTextError for a text that does not fit, where open_clip would cut it silently.
        """
        for text in texts:
            if (needed := self._count(text)) > self.context_length:
                raise LongTextError(
                    f"text of {needed} tokens does not fit a context of {self.context_length}: "
                    f"{text!r}; shorten the class name or the template, or use fewer context tokens"
                )
        return self._padded(list(texts))


class Tokenizer(AnyTokenizer):
    """CLIP's byte-pair tokenizer over a chosen number of merges.

    ``num_merges=None`` is the published vocabulary of 49408 ids. With fewer merges the ids are
    renumbered; the two special tokens keep the largest ids, so that pooling at the largest id still
    works. Source: Radford et al., ICML 2021 (arXiv 2103.00020); Sennrich et al., ACL 2016 (arXiv
    1508.07909).
    """

    num_start = 1

    def __init__(self, context_length: int = 77, *, num_merges: int | None = None) -> None:
        self.context_length = context_length
        self._bpe = copy.copy(_published_pairs())
        self._bpe.context_length = context_length
        if num_merges is not None:
            _keep_merges(self._bpe, num_merges)
        self.vocab_size: int = self._bpe.vocab_size
        self.sot_id: int = self._bpe.sot_token_id
        self.eot_id: int = self._bpe.eot_token_id

    def encode(self, text: str) -> list[int]:
        """Ids of one text without start, end or padding."""
        return list(self._bpe.encode(text))

    def words(self) -> list[str]:
        """The text of every id; a token that ends a word ends with a space."""
        return [str(self._bpe.decode([index])) for index in range(self.vocab_size)]

    def _padded(self, texts: list[str]) -> Tensor:
        ids: Tensor = self._bpe(texts)
        return ids

    def _count(self, text: str) -> int:
        return len(self.encode(text)) + 2


class HubTokenizer(AnyTokenizer):
    """A tokenizer in the files of the Hugging Face hub, as SigLIP has it: no start token, text, end
    token, padding.

    ``place`` is a folder with the tokenizer's files or the name of a repository that was fetched
    before; nothing is downloaded. ``settings`` are those of open_clip (``clean``: how texts are
    cleaned), which reads the files with transformers. Source: Zhai et al., ICCV 2023, arXiv
    2303.15343.

    Raises ValueError where transformers is not installed, the files are not on this machine, or
    the tokenizer puts something in front of a text; ``way_out`` says what to do.
    """

    num_start = 0

    def __init__(
        self,
        place: Path | str,
        context_length: int,
        *,
        vocab_size: int,
        settings: Mapping[str, Any],
        way_out: str,
    ) -> None:
        self.context_length, self.vocab_size = context_length, vocab_size
        try:
            self._hub: Any = load_open_clip().tokenizer.HFTokenizer(
                str(place), context_length=context_length, local_files_only=True, **settings
            )
        except ImportError as error:
            raise ValueError(
                f"the tokenizer {place} is read with transformers, which cannot be imported "
                f"({first_line(error)}); install it: pip install 'refinelab[siglip]'"
            ) from error
        except (OSError, ValueError) as error:
            raise ValueError(
                f"the tokenizer {place} cannot be read: {first_line(error)}; {way_out}"
            ) from error
        if self._ids("cat")[: len(self.encode("cat"))] != self.encode("cat"):
            raise ValueError(f"the tokenizer {place} puts tokens in front of a text; {way_out}")

    def encode(self, text: str) -> list[int]:
        """Ids of one text without end or padding."""
        return self._ids(text, add_special_tokens=False)

    def words(self) -> list[str]:
        """The text of every id; a token that begins a word begins with a space."""
        known = min(self.vocab_size, len(self._hub.tokenizer))
        tokens = self._hub.tokenizer.convert_ids_to_tokens(list(range(known)))
        shown = [str(token).replace("\u2581", " ") for token in tokens]
        return shown + [""] * (self.vocab_size - known)

    def _ids(self, text: str, **settings: Any) -> list[int]:
        return list(self._hub.tokenizer(self._hub.clean_fn(text), **settings).input_ids)

    def _padded(self, texts: list[str]) -> Tensor:
        ids: Tensor = self._hub(texts)
        return ids.long()

    def _count(self, text: str) -> int:
        return len(self._ids(text))


@functools.cache
def _published_pairs() -> Any:
    """The SimpleTokenizer of the published vocabulary, which takes longer to read than most texts
    to encode. It is copied, and its tables are shared: they are replaced, never changed.
    """
    return load_open_clip().tokenizer.SimpleTokenizer()


def _keep_merges(bpe: Any, num_merges: int) -> None:
    """Cut a SimpleTokenizer down to its first ``num_merges`` merges; its tables are new ones."""
    if not 0 < num_merges <= len(bpe.bpe_ranks):
        raise ValueError(f"num_merges must be in 1..{len(bpe.bpe_ranks)}, got {num_merges}")
    num_bytes = 2 * len(bpe.byte_encoder)
    kept = [*list(bpe.encoder)[: num_bytes + num_merges], *SPECIAL]
    bpe.encoder = {token: index for index, token in enumerate(kept)}
    bpe.decoder = {index: token for token, index in bpe.encoder.items()}
    bpe.bpe_ranks = dict(list(bpe.bpe_ranks.items())[:num_merges])
    bpe.cache = {token: token for token in SPECIAL}
    bpe.vocab_size = len(bpe.encoder)
    bpe.sot_token_id = bpe.encoder["<start_of_text>"]
    bpe.eot_token_id = bpe.encoder["<end_of_text>"]
    bpe.all_special_ids = [bpe.sot_token_id, bpe.eot_token_id]
