"""Whether attribution graphs of the demo model say what the model does: `python -m bench.causes`.

On 30 prompts, whose answers the model knows, the 20 most influential features of the graph are each taken away in the
real model; beside them random features of the graph that are about as active.
"""

from __future__ import annotations

import numpy as np
import torch

import lenskit as lk
from bench.swaps import TEMPLATES
from lenskit.circuits.attributing.asking import attribute
from lenskit.circuits.changing.causal import CausalCheck, causal_check

PROMPTS, NODES, FEATURES = 30, 20, 512


def prompts(model: lk.Model) -> list[tuple[str, str, str]]:
    """Prompts that the model answers rightly, each with its answer and that of the next prompt of its kind."""
    found = list[tuple[str, str, str]]()
    for template, answers in TEMPLATES.items():
        pairs = list(answers.items())
        for (asked, answer), (_, other) in zip(pairs, pairs[1:] + pairs[:1], strict=True):
            prompt = template.format(asked)
            if model.run(prompt).logits[0, -1].argmax() == _first(model, answer):
                found.append((prompt, answer, other))
    step = len(found) / PROMPTS
    return [found[int(n * step)] for n in range(PROMPTS)] if step > 1 else found


def _first(model: lk.Model, answer: str) -> int:
    return int(model.text.ids(f" {answer}")[0])


def main() -> None:
    torch.set_num_threads(1)
    model = lk.load("demo")
    transcoders = lk.Transcoder.load_all("demo")
    asked = prompts(model)
    print(f"{len(asked)} prompts, {NODES} nodes of each, taken away", flush=True)
    for name, given in (("neurons", []), ("transcoders 19-24, neurons elsewhere", transcoders)):
        checks = dict[str, list[CausalCheck]](free=[], held=[])
        for prompt, answer, other in asked:
            graph = attribute(
                model, prompt, given, _first(model, answer), versus=_first(model, other), features=FEATURES
            )
            for attention in ("free", "held"):
                checks[attention].append(causal_check(model, graph, given, NODES, attention=attention))
        for attention, made in checks.items():
            print(f"{name}; attention {attention}: {_line(made)}", flush=True)


def _line(made: list[CausalCheck]) -> str:
    def middle(values: list[float]) -> str:
        low, median, high = np.nanquantile(values, [0.25, 0.5, 0.75])
        return f"{median:.2f} ({low:.2f} to {high:.2f})"

    return (
        f"correlation {middle([each.correlation for each in made])}, of random nodes "
        f"{middle([each.control_correlation for each in made])}; the predicted sign "
        f"{middle([each.same_sign for each in made])}; {middle([each.times_control for each in made])} times the "
        f"effect of random nodes; supported {sum(each.supported for each in made)} of {len(made)}"
    )


if __name__ == "__main__":
    main()
