"""Weights out: a Hugging Face folder that other tools load as it is, a file for llama.cpp, an ONNX graph."""

from openbook.export.build import STAGE
from openbook.export.gguf import write_gguf
from openbook.export.onnx import write_onnx

__all__ = ["STAGE", "write_gguf", "write_onnx"]
