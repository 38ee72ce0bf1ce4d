"""The table of families. To add one: a file that describes it, and a line here. An earlier one is preferred where several have a shape."""

from openbook.model.exchange.gpt2 import GPT2
from openbook.model.exchange.gpt_neo import GPT_NEO
from openbook.model.exchange.gpt_neox import GPT_NEOX
from openbook.model.exchange.gptj import GPTJ
from openbook.model.exchange.llama import LLAMA, MISTRAL, QWEN2, QWEN3
from openbook.model.exchange.mixture import MIXTRAL, QWEN3_MOE
from openbook.model.exchange.opt import OPT

FAMILIES = (QWEN3, GPT2, GPT_NEO, GPTJ, GPT_NEOX, OPT, LLAMA, MISTRAL, QWEN2, MIXTRAL, QWEN3_MOE)
