"""Who a corpus is about, in which words, and whom its filters remove."""

from openbook.corpus.audit.build import STAGE
from openbook.corpus.audit.telling import lines

__all__ = ["STAGE", "lines"]
