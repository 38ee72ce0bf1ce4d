"""llama.cpp inside this process, as a peer: the package xllamacpp, whose server is asked over HTTP."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import xllamacpp


class LlamaCpp:
    """A model of a GGUF file, computed by one thread, with keys and values kept in float32."""

    def __init__(self, path: Path, context: int) -> None:
        params = xllamacpp.CommonParams()
        params.model.path = str(path)
        params.n_ctx, params.n_parallel, params.warmup, params.fit_params, params.port = context, 1, False, False, 0
        params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = params.n_threads_http = 1
        params.cache_ram_mib, params.verbosity = 0, -1
        self._server = xllamacpp.Server(params)

    def tokenize(self, text: str) -> list[int]:
        """Ids of a text as it is read from its beginning: with what the vocabulary puts before it."""
        found: list[int] = self._ask("tokenize", content=text, add_special=True, parse_special=False)["tokens"]
        return found

    def continued(self, prompt: Sequence[int], tokens: int, end: int) -> list[int]:
        """The greedy continuation; its own end of a document is a token like any other."""
        found: list[int] = []
        while len(found) < tokens:
            answer = self._complete([*prompt, *found], n_predict=tokens - len(found))
            found += answer["tokens"]
            if answer["stop_type"] == "eos" and answer["tokens"][-1:] != [end]:
                found.append(end)
        return found

    def logprobs(self, prompt: Sequence[int], vocabulary: int) -> list[float]:
        """Of every token after the prompt, in nats."""
        plain = self.tokenize("a")[-1]  # chosen whatever its probability: half a character or an end would come without probabilities
        first = self._complete(prompt, n_predict=1, n_probs=vocabulary, logit_bias=[[plain, 1e4]])["completion_probabilities"][0]
        by_id = {each["id"]: each["logprob"] for each in first["top_logprobs"]}
        return [by_id[identifier] for identifier in range(vocabulary)]

    def _complete(self, prompt: Sequence[int], **asked: Any) -> dict[str, Any]:
        return self._ask("completion", prompt=list(prompt), temperature=0, samplers=["top_k"], top_k=1, return_tokens=True, **asked)

    def _ask(self, what: str, **content: Any) -> dict[str, Any]:
        url = f"{self._server.listening_address}/{what}"
        request = urllib.request.Request(url, json.dumps(content).encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            return dict(json.load(answer))
