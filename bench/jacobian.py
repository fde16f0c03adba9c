"""What a Jacobian lens costs: to fit, over the plain forward and backwards that it cannot do without; and to read with.

python -m bench.jacobian measures these figures alone, the fit on the passage of 64 tokens that is promised: some six
minutes. `make bench` takes half a passage, in which all that does not grow with it weighs twice as much.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

import lenskit as lk
from bench.interleaved import Ratio, ratio
from bench.lens import a_read, prompt_of
from lenskit.lenses.jacobian import JacobianLens

LENGTH, AT_ONCE = 64, 32


def fit_over_plain_backwards(model: lk.Model, length: int = LENGTH, pairs: int = 1, bound: float = 1.1) -> Ratio:
    """(a) fitting every layer on one passage, 32 rows at once, over a forward of 32 copies and 18 backwards by hand.

    Both leave out a quarter of the passage, sum the gradients at the same activations over positions and make matrices
    of them.
    """
    ids = torch.tensor(prompt_of(model, length))
    layers, skip = range(model.n_layers - 1), length // 4
    return ratio(
        f"(a) a fit of {len(layers)} layers, {length} tokens, over a plain forward and backwards",
        lambda: JacobianLens.fit(model, ids[None], skip_first=skip, at_once=AT_ONCE),
        lambda: plain(model, ids, layers, skip),
        bound=bound,
        pairs=pairs,
    )


def plain(model: lk.Model, ids: Tensor, layers: Sequence[int], skip: int) -> dict[int, Tensor]:
    """The matrices as the reference package computes them: weights frozen, hooks on the blocks, one-hot cotangents."""
    hf_model: Any = model.hf_model
    blocks, seen = hf_model.model.layers, dict[int, Tensor]()
    wanted = [*layers, len(blocks) - 1]

    def see(layer: int, output: Any) -> None:
        tensor = output[0] if isinstance(output, tuple) else output
        seen[layer] = tensor if tensor.requires_grad else tensor.requires_grad_()

    hooks = [
        blocks[layer].register_forward_hook(lambda _m, _a, output, layer=layer: see(layer, output)) for layer in wanted
    ]
    flags = [weight.requires_grad for weight in hf_model.parameters()]
    hf_model.requires_grad_(False)
    try:
        with torch.enable_grad():
            hf_model.model(input_ids=ids.expand(AT_ONCE, -1), use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
        for weight, flag in zip(hf_model.parameters(), flags, strict=True):
            weight.requires_grad_(flag)
    final, sources = seen[len(blocks) - 1], [seen[layer] for layer in layers]
    d_model = final.shape[-1]
    found = {layer: torch.zeros(d_model, d_model) for layer in layers}
    for begin in range(0, d_model, AT_ONCE):
        planted = torch.zeros_like(final)
        for copy in range(AT_ONCE):
            planted[copy, skip:-1, begin + copy] = 1
        grads = torch.autograd.grad(final, sources, planted, retain_graph=begin + AT_ONCE < d_model)
        for layer, grad in zip(layers, grads, strict=True):
            found[layer][begin : begin + AT_ONCE] = grad[:, skip:-1].mean(1)
    return found


def report(model: lk.Model, length: int = LENGTH // 2) -> Iterator[object]:
    """Every figure, as it is measured."""
    yield fit_over_plain_backwards(model, length)
    lens = JacobianLens.load(model, "demo")
    yield a_read(lens, "(b) a read with the Jacobian lens over forward + bare product", bound=1.3)


if __name__ == "__main__":
    torch.set_num_threads(1)
    for line in report(lk.load("demo"), LENGTH):
        print(line, flush=True)
