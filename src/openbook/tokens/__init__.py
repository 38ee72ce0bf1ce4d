"""Documents in, tokenizer and packed token shards out; (step, microbatch) to rows."""

from openbook.tokens.build import STAGE
from openbook.tokens.order import Mixture, Order, Span
from openbook.tokens.rows import Rows

__all__ = ["STAGE", "Mixture", "Order", "Rows", "Span"]
