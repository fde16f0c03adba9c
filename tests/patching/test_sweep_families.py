"""A sweep on many architectures equals plain Hugging Face forwards with plain hooks, whichever engine serves them."""

import os
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lenskit.models.model import Model
from lenskit.models.sites import SiteUnavailable
from lenskit.patching.metrics import logit_diff
from lenskit.patching.sweeps import sweep
from tests.models.architectures import DECODERS, build

# Soft-capped, sliding windows, sinks, grouped queries, parallel residuals, post-norms, ALiBi, experts, convolutions,
# state spaces.
FEW = [
    "gpt2",
    "llama",
    "gemma2",
    "gemma3_text",
    "gpt_oss",
    "gpt_neox",
    "olmo2",
    "bloom",
    "mixtral",
    "falcon",
    "granite",
    "cohere2",
    "lfm2",
    "mamba",
    "rwkv",
    "opt",
]
FAMILIES = DECODERS if os.environ.get("LENSKIT_ALL_ARCHITECTURES") else [name for name in FEW if name in DECODERS]
CLEAN, CORRUPT = [5, 17, 80, 33, 44, 91], [5, 17, 64, 33, 44, 12]


@torch.no_grad()
def by_plain_hooks(hf: Any, blocks: Any) -> np.ndarray:
    """Layer x position: what enters each block of the corrupt prompt, put from the clean one."""

    def entering(args: Any, kwargs: Any) -> Tensor:
        return args[0] if args else kwargs["hidden_states"]

    kept: list[Tensor] = []
    handles = [
        block.register_forward_pre_hook(lambda m, a, k: kept.append(entering(a, k).clone()), with_kwargs=True)
        for block in blocks
    ]
    hf(input_ids=torch.tensor([CLEAN]))
    for handle in handles:
        handle.remove()
    made = np.zeros((len(blocks), len(CLEAN)))
    for layer, block in enumerate(blocks):
        for pos in range(len(CLEAN)):

            def put(m: Any, args: Any, kwargs: Any, layer: int = layer, pos: int = pos) -> Any:
                new = entering(args, kwargs).clone()
                new[:, pos] = kept[layer][:, pos]
                return ((new, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": new})

            handle = block.register_forward_pre_hook(put, with_kwargs=True)
            logits = hf(input_ids=torch.tensor([CORRUPT])).logits[0, -1]
            handle.remove()
            made[layer, pos] = float(logits[7] - logits[9])
    return made


@pytest.mark.parametrize("family", FAMILIES)
def test_what_enters_the_blocks(family: str) -> None:
    model = Model(build(family))
    try:
        made = sweep(model, CLEAN, CORRUPT, metric=logit_diff(7, 9))
    except SiteUnavailable as refused:
        pytest.skip(str(refused))
    assert made.engine in ("packed rows", "one batch per layer")
    assert (made.why is None) == (made.engine == "packed rows")
    np.testing.assert_allclose(
        made.values, by_plain_hooks(model.hf_model, model.anatomy.blocks), rtol=1e-4, atol=1e-4, err_msg=str(made.why)
    )
