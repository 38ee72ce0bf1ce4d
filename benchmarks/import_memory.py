"""How much memory an import takes above the model's own size: `python benchmarks/import_memory.py [GIGABYTES]`.

Makes a Llama with random weights in shards of about 500 MB in a temporary folder, then checks, loads and imports it in processes of their
own. Prints the peak above the model's size as a share of the largest shard; the limit for loading is 1.3, and an import copies files.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file

from openbook.model.config import TransformerConfig
from openbook.model.exchange.configuration import exported_config, family_for
from openbook.model.exchange.family import layout
from openbook.model.transformer import Transformer

SHARD = 500_000_000
MEASURED = """
import resource, sys
from pathlib import Path
import torch
from openbook.model.exchange import load_weights
from openbook.importer import import_model
def peak():
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))
before = peak()
if sys.argv[1] == "load":
    model = load_weights(Path(sys.argv[2]))
else:
    import_model(sys.argv[2], out=Path(sys.argv[2]).parent / "run")
print(peak() - before)
"""


def config_of(gigabytes: float) -> TransformerConfig:
    """Of about so many bytes in fp32, with layers of 67 million parameters."""
    layers = max(1, round((gigabytes * 1e9 / 4 - 2 * 8000 * 2048) / 67e6))
    return TransformerConfig(8000, 2048, layers, 2048, 16, 16, 128, 8192)


def make(folder: Path, config: TransformerConfig) -> tuple[int, int]:
    """Writes the model shard by shard; returns its bytes and those of its largest shard."""
    with torch.device("meta"):
        parameters = dict(Transformer(config).named_parameters())
    shapes = {name: stored.shape(parameters) for name, stored in layout(family_for(config), config, parameters).items()}
    shards: list[dict[str, list[int]]] = [{}]
    filled = 0
    for name, shape in shapes.items():
        size = 4 * torch.Size(shape).numel()
        if filled + size > SHARD and shards[-1]:
            shards.append({})
            filled = 0
        shards[-1][name] = shape
        filled += size
    index: dict[str, str] = {}
    sizes = []
    for number, members in enumerate(shards, 1):
        name = f"model-{number:05}-of-{len(shards):05}.safetensors"
        save_file({tensor: torch.randn(shape) for tensor, shape in members.items()}, folder / name)
        index |= dict.fromkeys(members, name)
        sizes.append((folder / name).stat().st_size)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    (folder / "config.json").write_text(json.dumps(exported_config(config, 0)))
    return 4 * sum(torch.Size(shape).numel() for shape in shapes.values()), max(sizes)


def tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, models

    Tokenizer(models.BPE({"<|end|>": 0, "a": 1}, [])).save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|end|>"}))


def main() -> None:
    gigabytes = float(sys.argv[1]) if len(sys.argv) > 1 else 3.0
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"
        folder.mkdir()
        whole, largest = make(folder, config_of(gigabytes))
        tokenizer(folder)
        result: dict[str, float] = {"model_bytes": whole, "largest_shard_bytes": largest}
        for what, own in (("load", whole), ("import", 0)):
            printed = subprocess.run([sys.executable, "-c", MEASURED, what, str(folder)], capture_output=True, text=True, check=True)
            result[f"{what}_peak_above_model_in_shards"] = round((int(printed.stdout) - own) / largest, 3)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
