"""What stands before the models: keys and quotas, usage and energy, aliases, and engines elsewhere."""

from openbook.serve.front.door import Door
from openbook.serve.front.pool import Pool
from openbook.serve.front.store import Store

__all__ = ["Door", "Pool", "Store"]
