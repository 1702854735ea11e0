"""A stand-in for transformers: tokenizers of words, one id each, in the manner of SigLIP's."""

import sys
import types
from pathlib import Path
from typing import Any

import torch

END, PAD, UNKNOWN, FIRST = 1, 1, 2, 3


class WordTokenizer:
    """Every word has one id, by its order of appearance; an end token, no start token."""

    def __init__(self, size: int = 400) -> None:
        self.size = size
        self.known: dict[str, int] = {}

    def __len__(self) -> int:
        return self.size

    def __call__(self, texts: Any, *, add_special_tokens: bool = True, **settings: Any) -> Any:
        single = isinstance(texts, str)
        end = [END] if add_special_tokens else []
        rows = [
            [*(self.known.setdefault(w, FIRST + len(self.known)) for w in text.split()), *end]
            for text in ([texts] if single else texts)
        ]
        if length := settings.get("max_length"):
            rows = [[*row[:length], *[PAD] * (length - len(row))] for row in rows]
        ids = torch.tensor(rows) if settings.get("return_tensors") else rows
        return types.SimpleNamespace(input_ids=ids[0] if single else ids)

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
        by_id = {number: word for word, number in self.known.items()}
        return ["\u2581" + by_id[i] if i in by_id else f"<{i}>" for i in ids]


def stand_in(monkeypatch: Any, *places: str | Path) -> None:
    """Let ``transformers`` find a tokenizer at these places, and nowhere else."""
    found = {str(place): WordTokenizer() for place in places}

    class AutoTokenizer:
        @staticmethod
        def from_pretrained(name: str, *, cache_dir: Any = None, local_files_only: bool) -> Any:
            assert local_files_only, "the network would be asked"
            if name not in found:
                raise OSError(f"{name} is not a folder and not in the cache\nsecond line")
            return found[name]

    module = types.ModuleType("transformers")
    module.AutoTokenizer = AutoTokenizer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "transformers", module)
