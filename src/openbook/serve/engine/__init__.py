"""The inference engine: token ids in, tokens out, many sequences at once, each as if it were alone."""

from openbook.model.sample import Token
from openbook.serve.engine.engine import Answer, Engine, Work
from openbook.serve.engine.jobs import DeadlinePassed, Embedded, EngineClosed, Event, Finished, Job, QueueFull, Scored
from openbook.serve.engine.linear import PRECISIONS, Precision
from openbook.serve.engine.propose import PromptLookup, Proposer

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
