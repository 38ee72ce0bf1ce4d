"""What is done to texts after they are read: filters, deduplication, decontamination, each with a reason for every removal."""

from openbook.corpus.steps.apply import Steps, Told, first_shards, outside_files, survivors, versions
from openbook.corpus.steps.shards import ShardWriter
from openbook.corpus.steps.trail import Shard

__all__ = ["Shard", "ShardWriter", "Steps", "Told", "first_shards", "outside_files", "survivors", "versions"]
