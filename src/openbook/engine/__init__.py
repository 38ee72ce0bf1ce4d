"""The inference engine: token ids in, tokens out, many sequences at once, each as if it were alone."""

from openbook.engine.engine import Answer, Engine, Work
from openbook.engine.jobs import DeadlinePassed, Embedded, EngineClosed, Event, Finished, Job, QueueFull, Scored
from openbook.engine.linear import PRECISIONS, Precision
from openbook.engine.propose import PromptLookup, Proposer
from openbook.model.sample import Token

__all__ = [
    "PRECISIONS",
    "Answer",
    "DeadlinePassed",
    "Embedded",
    "Engine",
    "EngineClosed",
    "Event",
    "Finished",
    "Job",
    "Precision",
    "PromptLookup",
    "Proposer",
    "QueueFull",
    "Scored",
    "Token",
    "Work",
]
