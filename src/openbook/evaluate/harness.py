"""openbook's models in lm-eval: a model class that its registry knows as "openbook". An extra: pip install 'openbook[lm-eval]'.

lm-eval finds model classes by import, so its command line is started from here:
`python -m openbook.evaluate.harness run --model openbook --model_args target=runs/pocket --tasks piqa`.
"""

from __future__ import annotations

from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.registry import register_model

from openbook.evaluate.models import LanguageModel, Request, open_model

MAX_TOKENS = 256
"""lm-eval's default for what a task lets a model write."""


@register_model("openbook")
class Harness(LM):  # type: ignore[misc]
    """target: a run, a Hugging Face folder or a URL, or a model that is open already."""

    def __init__(self, target: str | LanguageModel, batch_size: int | str = 16, **_: Any) -> None:
        super().__init__()
        self.model = open_model(target, batch=int(batch_size)) if isinstance(target, str) else target

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        scores = self.model.loglikelihood([(request.args[0], request.args[1]) for request in requests])
        return [(score.logprob, score.greedy) for score in scores]

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        return [score.logprob for score in self.model.loglikelihood_rolling([request.args[0] for request in requests])]

    def generate_until(self, requests: list[Instance]) -> list[str]:
        asked = []
        for request in requests:
            prompt, wanted = request.args[:2]
            until = wanted.get("until") or []
            stop = (until,) if isinstance(until, str) else tuple(until)
            asked.append(Request(prompt, stop, int(wanted.get("max_gen_toks", MAX_TOKENS))))
        return [written.text for written in self.model.generate_until(asked)]


if __name__ == "__main__":
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()
