"""Patching as one would do it without lenskit: plain Hugging Face models, plain torch hooks, one forward per cell.

`Plain(hf)` knows, for each family, which modules' inputs and outputs the sites are. `capture(ids)` gives every site's
activation, without the batch axis; `patched(ids, changes)` gives the last block's output of a forward with changes.
"""

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

from lenskit.patching.cells import Change

INSIDE = ("q", "k", "v", "pattern")


@dataclass(frozen=True)
class Family:
    """Paths of modules: of the blocks in the model, and of the parts in a block (None where there is no such part).

    z, mlp_post are what goes into a module, attn_out and mlp_out what comes out of one. `serial`: the MLP reads what
    attention has added. `inside`: attention is one of transformers' attention functions.
    """

    blocks: str
    z: str | None
    attn_out: str | None
    mlp_post: str | None
    mlp_out: str | None
    serial: bool = True
    inside: bool = True


def _llama(**other: Any) -> Family:
    paths: dict[str, Any] = {"z": "self_attn.o_proj", "attn_out": "self_attn", "mlp_post": "mlp.down_proj"}
    paths |= {"mlp_out": "mlp"} | other
    return Family("model.layers", **paths)


_POST_NORMS = {"attn_out": "post_attention_layernorm", "mlp_out": "post_feedforward_layernorm"}
FAMILIES: dict[str, Family] = {
    "llama": _llama(),
    "qwen3": _llama(),  # queries and keys are normed
    "mistral": _llama(),  # a sliding window
    "gemma2": _llama(**_POST_NORMS),  # soft-capped, sliding windows
    "olmo2": _llama(**_POST_NORMS),  # post-norms only
    "cohere": _llama(serial=False),
    "mixtral": _llama(mlp_post=None),
    "gpt_oss": _llama(mlp_post=None),  # sinks, and experts
    "starcoder2": _llama(mlp_post="mlp.c_proj"),
    "gpt2": Family("transformer.h", "attn.c_proj", "attn", "mlp.c_proj", "mlp"),
    "gpt_neox": Family(
        "gpt_neox.layers", "attention.dense", "attention", "mlp.dense_4h_to_h", "mlp", serial=False
    ),
    "phi": Family("model.layers", "self_attn.dense", "self_attn", "mlp.fc2", "mlp", serial=False),
    "bloom": Family(
        "transformer.h", "self_attention.dense", "self_attention.dense", "mlp.dense_4h_to_h", "mlp.dense_4h_to_h",
        inside=False,
    ),
    "mpt": Family("transformer.blocks", "attn.out_proj", "attn", "ffn.down_proj", "ffn.down_proj", inside=False),
    "lfm2": Family("model.layers", None, None, "feed_forward.w2", "feed_forward", inside=False),
    "mamba": Family("backbone.layers", None, None, None, None, inside=False),
}  # fmt: skip


class Plain:
    """One plain Hugging Face model."""

    def __init__(self, hf: Any) -> None:
        self.hf, self.family = hf, FAMILIES[hf.config.model_type]
        self.blocks: list[Any] = list(hf.get_submodule(self.family.blocks))
        self.heads = getattr(hf.config, "num_attention_heads", 0)

    @property
    def sites(self) -> list[str]:
        """The sites that this family has."""
        family = self.family
        there = {
            "resid_pre": True, "resid_post": True, "z": family.z, "attn_out": family.attn_out,
            "mlp_post": family.mlp_post, "mlp_out": family.mlp_out,
            "resid_mid": family.serial and family.attn_out, **dict.fromkeys(INSIDE, family.inside),
        }  # fmt: skip
        return [name for name, has in there.items() if has]

    @torch.no_grad()
    def capture(self, ids: Tensor) -> dict[tuple[str, int], Tensor]:
        """Each site's activation in each layer: (pos, ...), or of the pattern (head, query, key)."""
        seen = dict[tuple[str, int], Tensor]()

        def look(site: str, layer: int, value: Tensor) -> Tensor:
            seen[site, layer] = value[0].clone()
            return value

        self._run(ids, look)
        return seen

    @torch.no_grad()
    def patched(self, ids: Tensor, changes: Iterable[Change]) -> Tensor:
        """(pos, d_model): what leaves the last block, in a forward with these changes."""
        end: list[Tensor] = []

        def change(site: str, layer: int, value: Tensor) -> Tensor:
            for each in changes:
                if (each.site, each.layer) == (site, layer):
                    value = _changed(value, each)
            if (site, layer) == ("resid_post", len(self.blocks) - 1):
                end[:] = [value[0].clone()]
            return value

        self._run(ids, change)
        return end[0]

    def _run(self, ids: Tensor, touch: Callable[[str, int, Tensor], Tensor]) -> None:
        handles = []
        for layer, block in enumerate(self.blocks):
            handles += self._hooks(block, layer, touch)
        implementation = self.hf.config._attn_implementation
        if self.family.inside:
            _register(touch)
            self.hf.set_attn_implementation("plain")
        try:
            self.hf(input_ids=ids)
        finally:
            for handle in handles:
                handle.remove()
            if self.family.inside:
                self.hf.set_attn_implementation(implementation)

    def _hooks(self, block: nn.Module, layer: int, touch: Callable[[str, int, Tensor], Tensor]) -> list[Any]:
        family, pre = self.family, list[Tensor]()

        def goes_in(module: nn.Module, args: Any, kwargs: Any) -> Any:
            hidden = args[0] if args else kwargs["hidden_states"]
            pre[:] = [touch("resid_pre", layer, hidden)]
            return ((pre[0], *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": pre[0]})

        def attn_out(value: Tensor) -> Tensor:
            value = touch("attn_out", layer, value)
            return touch("resid_mid", layer, pre[0] + value) - pre[0] if family.serial else value

        def z(value: Tensor) -> Tensor:
            return touch("z", layer, value.unflatten(-1, (self.heads, -1))).flatten(-2)

        hooks = [block.register_forward_pre_hook(goes_in, with_kwargs=True)]
        for path, listen, take in (
            (family.z, _before, z),
            (family.attn_out, _after, attn_out),
            (family.mlp_post, _before, lambda value: touch("mlp_post", layer, value)),
            (family.mlp_out, _after, lambda value: touch("mlp_out", layer, value)),
        ):
            if path is not None:
                hooks.append(listen(block.get_submodule(path), take))
        return [*hooks, _after(block, lambda value: touch("resid_post", layer, value))]


def _before(module: nn.Module, take: Callable[[Tensor], Tensor]) -> Any:
    return module.register_forward_pre_hook(lambda _, args: (take(args[0]), *args[1:]))


def _after(module: nn.Module, take: Callable[[Tensor], Tensor]) -> Any:
    def hook(_: nn.Module, args: Any, out: Any) -> Any:
        return (take(out[0]), *out[1:]) if isinstance(out, tuple) else take(out)

    return module.register_forward_hook(hook)


def _register(touch: Callable[[str, int, Tensor], Tensor]) -> None:
    """An attention function of transformers that lets q, k, v and the pattern be touched."""

    def plain(module: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, **more: Any) -> tuple[Tensor, Any]:
        layer = module.layer_idx
        q, k, v = (
            touch(site, layer, states.transpose(1, 2)).transpose(1, 2)
            for site, states in (("q", q), ("k", k), ("v", v))
        )
        eager = sys.modules[type(module).__module__].eager_attention_forward
        _, pattern = eager(module, q, k, v, mask, **more)
        pattern = touch("pattern", layer, pattern)
        return (pattern @ v.repeat_interleave(q.shape[1] // v.shape[1], 1)).transpose(1, 2).contiguous(), pattern

    AttentionInterface.register("plain", plain)
    AttentionMaskInterface.register("plain", eager_mask)


def _changed(value: Tensor, change: Change) -> Tensor:
    """One place after another, slowly and plainly."""
    value = value.clone()
    heads = change.heads
    if change.site == "pattern":
        for i, head in enumerate(heads if heads is not None else range(value.shape[1])):
            for j, pos in enumerate(change.pos):
                value[0, head, pos] = change.value[i, j]
        return value
    for i, pos in enumerate(change.pos):
        if heads is not None:
            for j, head in enumerate(heads):
                value[0, pos, head] = change.value[i, j]
        elif change.neurons is not None:
            for j, neuron in enumerate(change.neurons):
                value[0, pos, neuron] = change.value[i, j]
        else:
            value[0, pos] = change.value[i]
    return value
