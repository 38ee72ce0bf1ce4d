"""Weights in and out: the Hugging Face folder of a stock architecture of exactly our shape, so that other tools need no code of ours.

A family is a file of this package: its names, the layout of its tensors, its `config.json` both ways. `families` is the table of them.
"""

from openbook.model.exchange.configuration import architecture, exported_config, load_config
from openbook.model.exchange.weights import load_weights, require_weights, save_weights

__all__ = ["architecture", "exported_config", "load_config", "load_weights", "require_weights", "save_weights"]
