"""Who a corpus is about, in which words, and whom its filters remove."""

from openbook.corpus.audit.build import STAGE

__all__ = ["STAGE"]
