"""Documents to ids, by several processes: the unit of work is a row group of a documents file, and results come in the files' order.

What a process computes depends on its row group alone, so the number of processes changes neither the order nor a bit. Memory is bounded
by the row groups in hand: each process works on one, and has one more waiting.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from openbook.documents import read_group
from openbook.errors import OpenbookError
from openbook.model.tokenizer import Tokenizer, load_tokenizer

WORTH_A_PROCESS = 16_000_000
"""Bytes of text that take about as long as two starts of a process."""


@dataclass(frozen=True)
class Group:
    """A row group of a documents file."""

    path: Path
    number: int


@dataclass(frozen=True)
class Encoded:
    """The documents of a row group, each followed by the end-of-document token. `facts`: what documents.parquet says but for places."""

    ids: npt.NDArray[np.integer]
    lengths: list[int]
    facts: list[dict[str, Any]]


def dtype_for(vocab_size: int) -> np.dtype[np.uint16] | np.dtype[np.uint32]:
    return np.dtype("<u2") if vocab_size <= 65_536 else np.dtype("<u4")


def processes_for(size: int) -> int:
    """As many as this process may use, and pay for so many bytes of text."""
    return max(1, min(len(os.sched_getaffinity(0)), size // WORTH_A_PROCESS))


def encode(group: Group, tokenizer: Tokenizer) -> Encoded:
    dtype = dtype_for(tokenizer.vocab_size)
    parts, facts = [], []
    for document in read_group(group.path, group.number):
        parts.append(np.asarray([*tokenizer.encode(document.text), tokenizer.end_of_document], dtype=dtype))
        about = {"id": document.id, "component": document.component, "licence": document.licence, "origin": document.origin}
        facts.append({**about, "bytes": document.bytes})
    return Encoded(np.concatenate([np.empty(0, dtype), *parts]), [len(part) for part in parts], facts)


def encode_all(groups: Sequence[Group], tokenizer: Tokenizer, path: Path, processes: int) -> Generator[Encoded, None, None]:
    """In the order of the groups. `path` is where the tokenizer lies. Raises OpenbookError if a process is killed."""
    if processes == 1:
        yield from (encode(group, tokenizer) for group in groups)
        return
    waiting: deque[Future[Encoded]] = deque()
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), _begin) as pool:
        try:
            for group in groups:
                waiting.append(pool.submit(_encode, group, path))
                if len(waiting) > 2 * processes:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool:
            raise OpenbookError("a process that encodes was killed, for want of memory as a rule; the same command begins again") from None
        finally:
            pool.shutdown(cancel_futures=True)


def _begin() -> None:
    """A process of the pool ends with the one that started it, however that ends, and leaves Ctrl-C to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


@cache
def _tokenizer(path: Path) -> Tokenizer:
    return load_tokenizer(path)


def _encode(group: Group, path: Path) -> Encoded:
    return encode(group, _tokenizer(path))
