"""What a patch grid measures: as a `Metric`, and as its spec has it, a name and one or two tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lenskit.models.model import Model
    from lenskit.patching.metrics import Metric


def metric_of(model: Model, spec: Mapping[str, Any], given: Metric) -> Metric:
    """The metric of a spec, read where the given one reads. Tokens are texts where they can be: so it reads in a repr.

    Raises `ValueError` where a token is still to be chosen.
    """
    from lenskit.patching import metrics

    name, pos = spec["metric"], given.pos
    if name == "given":
        return given
    if name == "kl":
        return metrics.kl(pos=pos)
    if spec["answer"] is None:
        raise ValueError(f"{name} needs a token: choose the answer among the next tokens.")
    answer = _as_text(model, spec["answer"])
    if name == "logit_diff":
        if spec["against"] is None:
            raise ValueError("a logit difference needs a second token: choose what the answer is measured against.")
        return metrics.logit_diff(answer, _as_text(model, spec["against"]), pos=pos)
    return getattr(metrics, name)(answer, pos=pos)


def metric_by_default(model: Model, clean: str, corrupt: str) -> Metric:
    """What the two prompts would say next, against each other."""
    from lenskit.patching import metrics

    tops = [int(model.run(prompt).logits[0, -1].argmax()) for prompt in (clean, corrupt)]
    answer, against = (_as_text(model, top) for top in tops)
    return metrics.prob(answer) if tops[0] == tops[1] else metrics.logit_diff(answer, against)


def as_written(model: Model, metric: Metric) -> tuple[str, int | None, int | None]:
    """A metric as a spec has it: its name and its tokens; `given` is what has no name there."""
    from lenskit.patching import metrics

    tokens = model.text.tokens(metric.tokens)
    if isinstance(metric, metrics.LogitDiff) and len(tokens) == 2:
        return "logit_diff", tokens[0], tokens[1]
    if isinstance(metric, metrics.KL):
        return "kl", None, None
    names = {metrics.Prob: "prob", metrics.LogProb: "log_prob", metrics.Rank: "rank"}
    name = names.get(type(metric))
    return ("given", None, None) if name is None else (name, tokens[0], None)


def _as_text(model: Model, token: int) -> str | int:
    """A token as its text, where that is this one token again; else its id."""
    (piece,) = model.text.pieces([token])
    try:
        return piece if isinstance(piece, str) and model.text.token(piece) == token else token
    except ValueError:  # a text of several tokens, or a model without a tokenizer
        return token
