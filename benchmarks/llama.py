"""llama.cpp by the low-level functions of llama-cpp-python: several sequences at once, greedy, with no Python between the layers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import llama_cpp as lib
import numpy as np

BATCH = 2048  # tokens that one call takes; llama.cpp's own default


class Llama:
    """A GGUF file with room for ``sequences`` sequences of ``context`` tokens each."""

    def __init__(self, path: Path, threads: int, context: int = 2048, sequences: int = 1) -> None:
        lib.llama_log_set(_quiet, None)
        lib.llama_backend_init()
        self.model = lib.llama_model_load_from_file(str(path).encode(), lib.llama_model_default_params())
        wanted = lib.llama_context_default_params()
        wanted.n_ctx, wanted.n_batch, wanted.n_seq_max = context * sequences, BATCH, sequences
        wanted.n_threads = wanted.n_threads_batch = threads
        self.context = lib.llama_init_from_model(self.model, wanted)
        if not self.context:
            raise MemoryError(f"llama.cpp made no context of {context} tokens for {sequences} sequences")
        self.words = lib.llama_model_get_vocab(self.model)
        self.size = lib.llama_vocab_n_tokens(self.words)
        self.batch = lib.llama_batch_init(BATCH, 0, 1)

    def close(self) -> None:
        lib.llama_batch_free(self.batch)
        lib.llama_free(self.context)
        lib.llama_model_free(self.model)

    def tokens(self, text: str) -> list[int]:
        """Ids of ``text``, in which special tokens may stand."""
        data = text.encode()
        found = (lib.llama_token * (len(data) + 8))()
        count = lib.llama_tokenize(self.words, data, len(data), found, len(found), False, True)
        return list(found[:count])

    def generate(self, prompts: Sequence[Sequence[int]], new: int) -> list[list[int]]:
        """``new`` greedy tokens for every prompt: prompts are read ``BATCH`` tokens a call, then every call takes one token a sequence."""
        lib.llama_memory_clear(lib.llama_get_memory(self.context), False)
        out: list[list[int]] = [[] for _ in prompts]
        rows = [(token, at, row, at + 1 == len(ids)) for row, ids in enumerate(prompts) for at, token in enumerate(ids)]
        for i in range(0, len(rows), BATCH):
            self._decode(rows[i : i + BATCH], out)
        for step in range(new - 1):
            self._decode([(out[row][-1], len(ids) + step, row, True) for row, ids in enumerate(prompts)], out)
        return out

    def _decode(self, rows: Sequence[tuple[int, int, int, bool]], out: list[list[int]]) -> None:
        """One call over (token, position, sequence, whether its next token is wanted); the likeliest next tokens go to ``out``."""
        batch = self.batch
        batch.n_tokens = len(rows)
        for i, (token, position, sequence, wanted) in enumerate(rows):
            batch.token[i], batch.pos[i], batch.logits[i] = token, position, wanted
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, sequence
        if code := lib.llama_decode(self.context, batch):
            raise RuntimeError(f"llama_decode gave {code}")
        for i, (_, _, sequence, wanted) in enumerate(rows):
            if wanted:
                logits = np.ctypeslib.as_array(lib.llama_get_logits_ith(self.context, i), (self.size,))
                out[sequence].append(int(logits.argmax()))


@lib.llama_log_callback
def _quiet(level: int, text: bytes, data: object) -> None:
    """Nothing: llama.cpp describes every model that it loads."""
