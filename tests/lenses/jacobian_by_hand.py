"""The Jacobian lens's matrices with plain torch: the derivatives of all positions, in float64, summed by hand."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.functional import jacobian

# Where each family's blocks are; then within one, what reads z, and what gives attn_out and mlp_out, with the factor by
# which it is multiplied on its way into the residual stream.
FAMILIES: dict[str, tuple[str, str, str, str, float]] = {
    "llama": ("model.layers", "self_attn.o_proj", "self_attn.o_proj", "mlp", 1.0),
    "gpt2": ("transformer.h", "attn.c_proj", "attn.c_proj", "mlp", 1.0),
    "gemma2": ("model.layers", "self_attn.o_proj", "post_attention_layernorm", "post_feedforward_layernorm", 1.0),
    "gpt_neox": ("gpt_neox.layers", "attention.dense", "attention.dense", "mlp", 1.0),
    "phi": ("model.layers", "self_attn.dense", "self_attn.dense", "mlp", 1.0),
    "falcon": ("transformer.h", "self_attention.dense", "self_attention.dense", "mlp", 1.0),
    "gptj": ("transformer.h", "attn.out_proj", "attn.out_proj", "mlp", 1.0),
    "granite": ("model.layers", "self_attn.o_proj", "self_attn.o_proj", "mlp", 0.4),
}


def blocks_of_derivatives(
    hf_model: nn.Module, family: str, ids: Tensor, source: str, layer: int, target: int
) -> Tensor:
    """(pos out, d_model out, pos in, d_in): the target layer's output by a source, at every pair of positions."""
    model: Any = copy.deepcopy(hf_model).double()
    where, z, attn, mlp, factor = FAMILIES[family]
    blocks = model.get_submodule(where)
    ends: list[Tensor] = []

    def run(x: Tensor | None) -> Tensor:
        """The target with `x` (pos, d_in) in the place of the source; without it, the source itself."""
        kept: list[Tensor] = []

        def given(value: Any) -> Any:
            tensor = value[0] if isinstance(value, tuple) else value
            kept.append(tensor[0].clone())
            if x is None:
                return None
            new = x[None].clone()  # some models add to it in place
            return (new, *value[1:]) if isinstance(value, tuple) else new

        def seen(_m: nn.Module, _a: Any, output: Any) -> None:
            ends.append((output[0] if isinstance(output, tuple) else output)[0])

        block = blocks[layer]
        if source == "z":
            hook = block.get_submodule(z).register_forward_pre_hook(lambda _m, args: given(args))
        else:
            module = {"resid_post": "", "attn_out": attn, "mlp_out": mlp}[source]
            hook = block.get_submodule(module).register_forward_hook(lambda _m, _a, output: given(output))
        last = blocks[target].register_forward_hook(seen)
        try:
            model(input_ids=ids[None])
        finally:
            hook.remove()
            last.remove()
        return kept[0].detach() if x is None else ends[-1]

    with torch.no_grad():
        start = run(None)
    found: Any = jacobian(run, start)
    return found / (factor if source in ("attn_out", "mlp_out") else 1.0)


def summed(blocks: Tensor, skip_first: int) -> Tensor:
    """(d_model out, d_in): the sum over later targets, averaged over sources, both without the first and the last."""
    positions = range(skip_first, len(blocks) - 1)
    total = torch.zeros_like(blocks[0, :, 0])
    for t in positions:
        for after in positions:
            if after >= t:
                total += blocks[after, :, t]
    return total / len(positions)
