"""Random blocks: the same model with its blocks' weights dealt out anew, so that it knows nothing."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch

from lenskit.models.finding.placed import is_plain
from lenskit.models.model import Model


def random_blocks(model: Model, seed: int = 0) -> Model:
    """A copy of a model in whose blocks the entries of each matrix have changed places at random.

    Embedding, unembedding, norms and biases stay; so do the mean and spread of every matrix. What a lens of it still
    reads comes from the unembedding, and nothing that the model has learnt in between.

    Memory: the model once more. Raises `TypeError` for a model whose weights are no plain numbers.

    >>> random_blocks(model).run("The capital of France is")  # doctest: +SKIP
    """
    made: Any = deepcopy(model.anatomy.model)
    copy = Model(made, model.tokenizer, name=f"{model.name} with random blocks", revision=model.revision)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in copy.anatomy.blocks.named_parameters():
            if not is_plain(weight):
                raise TypeError(f"{name} of {model.name} is no plain matrix, so its numbers cannot be dealt out anew.")
            if weight.dim() > 1:
                order = torch.randperm(weight.numel(), generator=generator).to(weight.device)
                weight.copy_(weight.flatten()[order].view_as(weight))
    return copy
