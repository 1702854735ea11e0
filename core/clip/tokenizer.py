"""Text to BPE ids: the published vocabulary, and a smaller one for the embedded model."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

SPECIAL = ("<start_of_text>", "<end_of_text>")


class LongTextError(ValueError):
    """A text has more tokens than the context."""


class Tokenizer:
    """CLIP's byte-pair tokenizer over a chosen number of merges.

    ``num_merges=None`` is the published vocabulary of 49408 ids. With fewer merges the ids are
    renumbered; the two special tokens keep the largest ids, so that pooling at the largest id still
    works. Source: Radford et al., ICML 2021 (arXiv 2103.00020); Sennrich et al., ACL 2016 (arXiv
    1508.07909).
    """

    def __init__(self, context_length: int = 77, *, num_merges: int | None = None) -> None:
        self.context_length = context_length
        from open_clip.tokenizer import SimpleTokenizer  # slow to import and not always needed

        self._bpe = SimpleTokenizer(context_length=context_length)
        if num_merges is not None:
            _keep_merges(self._bpe, num_merges)
        self.vocab_size: int = self._bpe.vocab_size
        self.sot_id: int = self._bpe.sot_token_id
        self.eot_id: int = self._bpe.eot_token_id

    def encode(self, text: str) -> list[int]:
        """Ids of one text without start, end or padding."""
        return list(self._bpe.encode(text))

    def words(self) -> list[str]:
        """The text of every id, in order; a token that ends a word ends with a space."""
        return [str(self._bpe.decode([index])) for index in range(self.vocab_size)]

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Ids ``(len(texts), context_length)`` int64: start, text, end, zeros.

        Raises LongTextError for a text that does not fit, where open_clip would cut it silently.
        """
        for text in texts:
            needed = len(self.encode(text)) + 2
            if needed > self.context_length:
                raise LongTextError(
                    f"text of {needed} tokens does not fit a context of {self.context_length}: "
                    f"{text!r}; shorten the class name or the template, or use fewer context tokens"
                )
        ids: Tensor = self._bpe(list(texts))
        return ids


def _keep_merges(bpe: Any, num_merges: int) -> None:
    """Cut a SimpleTokenizer down to its first ``num_merges`` merges, in place."""
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
