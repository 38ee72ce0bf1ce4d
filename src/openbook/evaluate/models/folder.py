"""A Hugging Face folder, by transformers: any causal model that it can open. An extra: pip install 'openbook[evaluate]'."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from openbook.errors import InputError
from openbook.evaluate.models.interface import Request
from openbook.evaluate.models.tokens import Row, TokenModel


class Folder(TokenModel):
    """Rows side by side, padded on the right; nothing is shared between them, so any architecture will do."""

    def __init__(self, path: Path, identity: str, batch: int = 16, stride: int | None = None) -> None:
        try:
            from transformers import AutoModelForCausalLM, AutoTokenizer
        except ModuleNotFoundError:
            raise InputError(f"{path}: a folder of this architecture needs transformers; pip install 'openbook[evaluate]'") from None
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
            model: Any = AutoModelForCausalLM.from_pretrained(path, local_files_only=True, dtype=torch.float32)
        except (OSError, ValueError, KeyError) as error:
            raise InputError(f"{path}: transformers cannot open it ({str(error).splitlines()[0]})") from None
        self.model = model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
        self.identity, self.batch, self.stride = identity, batch, stride
        known = self.model.config
        window = next((value for key in ("max_position_embeddings", "n_positions", "n_ctx") if (value := getattr(known, key, None))), None)
        beginning = self.tokenizer.bos_token_id if self.tokenizer.bos_token_id is not None else self.tokenizer.eos_token_id
        if window is None or beginning is None:
            missing = "max_position_embeddings in config.json" if window is None else "bos_token or eos_token in tokenizer_config.json"
            raise InputError(f"{path}: has no {missing}")
        self.window, self.beginning = int(window), int(beginning)
        self.prefix = tuple(self.tokenizer.encode(""))

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        return ids

    @torch.no_grad()
    def score_rows(self, rows: Sequence[Row]) -> list[tuple[float, bool]]:
        order = sorted(range(len(rows)), key=lambda index: len(rows[index].context) + len(rows[index].continuation))
        scores: dict[int, tuple[float, bool]] = {}
        for start in range(0, len(order), self.batch):
            part = order[start : start + self.batch]
            ids = [[*rows[index].context, *rows[index].continuation[:-1]] for index in part]
            inputs = torch.zeros(len(part), max(map(len, ids)), dtype=torch.long)
            mask = torch.zeros_like(inputs)
            for row, values in enumerate(ids):
                inputs[row, : len(values)], mask[row, : len(values)] = torch.tensor(values), 1
            logits = self.model(inputs.to(self.model.device), attention_mask=mask.to(self.model.device)).logits  # (rows, longest, vocab)
            for row, index in enumerate(part):
                wanted = torch.tensor(rows[index].continuation)
                own = logits[row, len(rows[index].context) - 1 :][: len(wanted)].float().cpu()
                loss = F.cross_entropy(own, wanted, reduction="none").double().sum()
                scores[index] = (-float(loss), bool((own.argmax(-1) == wanted).all()))
        return [scores[index] for index in range(len(rows))]

    def write(self, prompts: Sequence[list[int]], requests: Sequence[Request]) -> list[str]:
        return [self._write(prompt, request) for prompt, request in zip(prompts, requests, strict=True)]

    def _write(self, prompt: list[int], request: Request) -> str:
        inputs = torch.tensor([prompt], device=self.model.device)
        stop = {"stop_strings": list(request.stop), "tokenizer": self.tokenizer} if request.stop else {}
        padding = self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else self.beginning
        drawn = {"do_sample": True, "temperature": request.temperature, "top_p": request.top_p, "top_k": 0} if request.temperature else {}
        with torch.random.fork_rng():  # transformers draws from the global generator
            torch.manual_seed(request.seed)
            output = self.model.generate(
                inputs,
                attention_mask=torch.ones_like(inputs),
                max_new_tokens=request.max_tokens,
                pad_token_id=padding,
                **(drawn or {"do_sample": False}),
                **stop,
            )
        text = str(self.tokenizer.decode(output[0, len(prompt) :], skip_special_tokens=True))
        ends = [text.index(string) for string in request.stop if string in text]
        return text[: min(ends)] if ends else text
