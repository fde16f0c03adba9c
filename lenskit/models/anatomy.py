"""Where each part is in this architecture: found in the module tree, then verified on a small forward.

Nothing is listed per model. The tree gives the blocks, the embedding and the head. What a block adds to the residual
stream, and what stands between the last block and the logits, is found by *looking* (probe.py): the modules' real
inputs and outputs are put together until they give the output of the block (writers.py, heads.py, neurons.py, tail.py),
and a site that does not add up is not offered.
"""

from __future__ import annotations

import difflib
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import nn

from lenskit.models.finding.blocks import find_blocks
from lenskit.models.finding.gradients import where_cut
from lenskit.models.finding.heads import Found, find_heads, find_written_out
from lenskit.models.finding.neurons import find_neurons
from lenskit.models.finding.order import Order
from lenskit.models.finding.placed import without_numbers
from lenskit.models.finding.probe import Probe, same
from lenskit.models.finding.ragged import Ragged
from lenskit.models.finding.running_on import no_running_on
from lenskit.models.finding.spots import Spot
from lenskit.models.finding.tail import Tail, find_tail
from lenskit.models.finding.trial import try_middles
from lenskit.models.finding.wrapped import COMPILED_IN_PLACE, eager, is_compiled
from lenskit.models.finding.writers import find_writers
from lenskit.models.running.doors import Door
from lenskit.models.sites import AFTER_NORM, BEFORE_ROTARY, LAYERED, NAMED, NAMES, SINGLE, Site, Sites, SiteUnavailable
from lenskit.models.taps import Point


@dataclass
class Anatomy:
    """The parts of one Hugging Face model. `spot(site)` says where a site is, or raises `SiteUnavailable`."""

    model: nn.Module
    outer: nn.Module | None = None  # what the person gave, where that wraps the model
    doors: dict[nn.Module, Door] = field(default_factory=dict, repr=False)
    overwrites: set[str] = field(default_factory=set, repr=False)
    _spots: dict[tuple[str, tuple[int, ...]], list[Spot]] = field(default_factory=dict, repr=False)
    _has_numbers: bool = False
    _starts: dict[int, str | None] = field(default_factory=dict, repr=False)

    @cached_property
    def family(self) -> str:
        """The architecture's name as people say it: `Llama`, `GPT2`, `GPTNeoX`."""
        name = type(self.model).__name__
        for ending in ("ForCausalLM", "LMHeadModel", "Model"):
            name = name.removesuffix(ending)
        return name

    @cached_property
    def blocks(self) -> nn.ModuleList:
        """The decoder blocks: the module list as long as the config says, or else the heaviest one."""
        return find_blocks(self.model, getattr(_text_config(self.model), "num_hidden_layers", None), self.family)

    @cached_property
    def order(self) -> Order:
        """When the sites come in a forward."""
        return Order(self)

    @cached_property
    def depth(self) -> int:
        """The number of blocks; 0 for a plain module, which has no blocks that lenskit knows of."""
        return len(self.blocks) if self.is_language_model else 0

    @cached_property
    def is_language_model(self) -> bool:
        """Whether it is one of transformers' models; of any other module only its module paths are known."""
        return hasattr(self.model, "get_input_embeddings") and hasattr(self.model, "config")

    @cached_property
    def embedding(self) -> nn.Module:
        """The token embedding, as the model itself names it."""
        return self.model.get_input_embeddings()  # pyright: ignore[reportCallIssue] -- a PreTrainedModel

    @cached_property
    def entry(self) -> nn.Module | None:
        """The module that reads what goes in, where that is known."""
        return self.embedding if self.is_language_model else None

    @cached_property
    def vocab(self) -> int:
        """How many token ids the embedding knows."""
        return int(getattr(self.embedding, "num_embeddings", 0) or _text_config(self.model).vocab_size)

    @cached_property
    def context(self) -> int | None:
        """How many tokens the model reads at most, or None where its config does not say."""
        config = _text_config(self.model)
        limits = (getattr(config, name, None) for name in ("max_position_embeddings", "n_positions"))
        return next((int(limit) for limit in limits if isinstance(limit, int) and limit > 0), None)

    @cached_property
    def modules(self) -> tuple[nn.Module, ...]:
        """Every module of the model, and of what wraps it."""
        return tuple((self.model if self.outer is None else self.outer).modules())

    def eagerly(self) -> AbstractContextManager[object]:
        """While it lasts, the model's compiled parts run as they are written, so that there is something to see."""
        return eager(self._may_be_compiled, self._holds_compiled)

    @property
    def is_compiled(self) -> bool:
        """Whether some part of it is compiled at this moment."""
        return self._holds_compiled or any(map(COMPILED_IN_PLACE, self._may_be_compiled))

    @cached_property
    def _holds_compiled(self) -> bool:
        return any(is_compiled(module) for module in self.modules)

    @cached_property
    def _may_be_compiled(self) -> tuple[nn.Module, ...]:
        """What somebody may compile in place at any time. (Of something within a block, an error would tell.)"""
        return (self.model, *self.blocks) if self.is_language_model else self.modules

    def check_numbers(self) -> None:
        """Raise `ValueError` for a model that was never loaded."""
        if not self._has_numbers:
            if absent := without_numbers(self.model):
                raise ValueError(f"this {self.family} cannot run: {absent}.")
            self._has_numbers = True

    def check_gradients(self) -> None:
        """Raise `ValueError` where a gradient would be cut off on its way, and so be wrong."""
        if self.is_language_model and self._cut is not None:
            module = self.model.get_submodule(self._cut)
            raise ValueError(
                f"no gradient can be taken in this {self.family}: none comes through {self._cut!r}, a "
                f"{type(module).__name__} whose weight is quantised for inference. Load the model without quantization."
            )

    @cached_property
    def _cut(self) -> str | None:
        self.check_numbers()
        with self.eagerly():
            return where_cut(self.model, self.embedding)

    @cached_property
    def probe(self) -> Probe:
        """The small forward on which the rest is verified. Raises `SiteUnavailable` where nothing can be."""
        if absent := without_numbers(self.model):
            raise SiteUnavailable(
                f"no site can be found in this {self.family}, since that takes a small forward, and {absent}."
            )
        return Probe.take(self.model, self.blocks, self.vocab)

    def check_start(self, layer: int) -> None:
        """Raise `SiteUnavailable` where a forward cannot begin at a layer; measured once for each."""
        if layer not in self._starts:
            self._starts[layer] = no_running_on(self, layer)
        if reason := self._starts[layer]:
            raise SiteUnavailable(f"{self.family} cannot run on from layer {layer}: {reason}.")

    @property
    def text_config(self) -> Any:
        """The configuration of the part that reads text."""
        return _text_config(self.model)

    @cached_property
    def ragged(self) -> Ragged:
        """How rows of different length are given to the model together."""
        return Ragged(self)

    @cached_property
    def causal(self) -> bool:
        """Whether a later token changes nothing before it, as measured: a decoder's promise, and no encoder's."""
        tokens = self.probe.tokens[:, :-1]
        with torch.no_grad(), self.eagerly():
            shorter = self.model(input_ids=tokens).logits
        # Another length may take another kernel, whose noise goes through all layers; looking ahead shows in percents.
        return same(shorter, self.probe.logits[:, :-1], least=1e-4)

    @cached_property
    def tail(self) -> Tail:
        """The verified way from the last residual to the logits. Raises `SiteUnavailable` where it does not add up."""
        if not self.is_language_model:
            raise self._plain("'logits'")
        head = self.model.get_output_embeddings()  # pyright: ignore[reportCallIssue] -- a PreTrainedModel
        return find_tail(self.probe, head, _text_config(self.model), self.family)

    @cached_property
    def layers(self) -> list[Found]:
        """For each block: the sites that were found and verified, and why the others are not there."""
        if not self.is_language_model:
            raise self._plain("a named site")
        found = [self._begin(layer, block) for layer, block in enumerate(self.blocks)]
        whole = [
            (block, each, find_writers(self.probe, block))
            for block, each in zip(self.blocks, found, strict=True)
            if not each.missing
        ]
        written = find_written_out(self.model, self.probe, [writers.attention for _, _, writers in whole])
        for block, each, writers in whole:
            each.add(writers.spots, writers.missing)
            heads = find_heads(self.probe, block, writers.attention, written)
            neurons = find_neurons(self.probe, block, writers.mlp)
            each.add(heads.spots | neurons.spots, heads.missing | neurons.missing)
        with self.eagerly():
            try_middles(self.model, self.probe.tokens, found)
        return found

    def _begin(self, layer: int, block: nn.Module) -> Found:
        found = Found()
        if reason := self._no_residual(layer, block):
            found.lacks(reason, *LAYERED)
        else:
            found.spots["resid_pre"] = Spot(Point(block, "input"))
            found.spots["resid_post"] = Spot(Point(block, "output"))
        return found

    def _no_residual(self, layer: int, block: nn.Module) -> str | None:
        """Why the block's input and output are not the residual stream, or None where they are."""
        if self.probe.times(block) != 1:
            return f"the block is called {self.probe.times(block)} times in a forward"
        pre, post = self.probe.residuals(block)
        if pre.shape != post.shape or pre.shape[:-1] != self.probe.tokens.shape:
            return f"the blocks hand on a tensor of shape {tuple(post.shape)}, which is no single residual stream"
        following = self.blocks[layer + 1] if layer + 1 < len(self.blocks) else block
        if following is block or not self.probe.times(following) or same(self.probe.residuals(following)[0], post):
            return None
        return "something between the blocks changes the residual stream"

    def spot(self, site: Site) -> Spot:
        """Where `site` is seen. Raises `SiteUnavailable` with the reason, or if its layer is out of range."""
        name, layer, _ = site
        if site.is_path:
            return self._path(name)
        if not self.is_language_model:
            raise self._plain(repr(name))
        if name in SINGLE:
            return self._single(name)
        if layer is None or not 0 <= layer < len(self.blocks):
            raise SiteUnavailable(f"{site} does not exist: {self.family} has layers 0 to {len(self.blocks) - 1}.")
        found = self.layers[layer]
        if name not in found.spots:
            raise SiteUnavailable(f"{name!r} does not exist in {self._where(name)}: {found.missing[name]}")
        return found.spots[name]

    def _plain(self, what: str) -> SiteUnavailable:
        paths = [path for path, _ in self.model.named_modules() if path]
        there = "it has no modules either"
        if paths:
            shown = ", ".join(map(repr, paths[:8])) + (f" and {len(paths) - 8} more" if len(paths) > 8 else "")
            there = f"only the paths of its modules are sites, here {shown}, and each with '.input'"
        return SiteUnavailable(f"{what} does not exist in {self.family}, which is no language model: {there}.")

    def _where(self, name: str) -> str:
        missing = [layer for layer, found in enumerate(self.layers) if name not in found.spots]
        return self.family if len(missing) == len(self.blocks) else f"layers {missing} of {self.family}"

    def _single(self, name: str) -> Spot:
        if name == "embed":
            return Spot(Point(self.embedding, "output"))
        if name == "pos_embed":
            return self._pos_embed
        if name == "logits":
            return Spot(Point(self.model, "output"))
        if not self.tail.modules:
            raise SiteUnavailable(f"'final_norm' does not exist in {self.family}: the head reads the last residual.")
        return Spot(Point(self.tail.modules[0], "output"))

    @cached_property
    def _pos_embed(self) -> Spot:
        token = self.probe.by_module[self.embedding][0].output
        pre = self.probe.residuals(self.blocks[0])[0]
        for call in self.probe.before_blocks():
            fits = call.output.numel() == token.numel() == pre.numel() and call.output.shape[-1] == token.shape[-1]
            if not fits or call.module is self.embedding or self.probe.times(call.module) != 1:
                continue
            if same(token + call.output.reshape(token.shape), pre):
                return Spot(Point(call.module, "output"), unbatched=call.output.dim() == 2)
        raise SiteUnavailable(
            f"'pos_embed' does not exist in {self.family}: no position embedding is added to the token embedding "
            "(rotary embeddings turn 'q' and 'k' instead)."
        )

    def _path(self, path: str) -> Spot:
        """A module's output, or with `.input` what goes into it."""
        if found := BEFORE_ROTARY.fullmatch(path):
            site = Site(found[2], int(found[1]))
            if "pos_embed" not in self.table:
                raise SiteUnavailable(
                    f"{path!r} is TransformerLens's {found[2]} before the rotary embedding, and {self.family} adds no "
                    f"position embedding: lenskit's {found[2]!r} is after it. Ask for {str(site)!r}, or for "
                    f"'blocks.{found[1]}.attn.hook_rot_{found[2]}'."
                )
            return self.spot(site)
        if found := AFTER_NORM.fullmatch(path):
            ours = {"ln1": f"attn_in.{found[1]}", "ln2": f"mlp_in.{found[1]}", "ln_final": "final_norm"}[found[2]]
            raise SiteUnavailable(
                f"{path!r} stands after the norm's gain and bias in some versions of TransformerLens, and before them "
                f"in others. Ask for {ours!r}, which is after them."
            )
        modules = self._paths
        if path in modules and path:
            return Spot(Point(modules[path], "output"))
        whole, _, side = path.rpartition(".")
        if side in ("input", "output") and whole in modules:
            return Spot(Point(modules[whole], side))
        near = difflib.get_close_matches(path, [*NAMES, *modules], n=2)
        advice = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
        raise SiteUnavailable(f"{path!r} is not a site. {NAMED}{advice}")

    def spots(self, name: str, layers: tuple[int, ...]) -> list[Spot]:
        """The spots of a site in these layers (the one spot, of a site that exists once), found once."""
        if (name, layers) not in self._spots:
            self._spots[name, layers] = [self.spot(Site(name, layer)) for layer in layers or (None,)]
        return self._spots[name, layers]

    @cached_property
    def _paths(self) -> dict[str, nn.Module]:
        """Every module by its path, and by the path it would have if it were not compiled or wrapped."""
        modules = dict(self.model.named_modules())
        own = set(modules.values())
        outer = {} if self.outer is None else {p: m for p, m in self.outer.named_modules() if m in own}
        found = outer | modules
        return {path.replace("_orig_mod.", ""): module for path, module in found.items()} | found

    def layers_of(self, name: str) -> list[int]:
        """The layers in which a site exists."""
        return [layer for layer, found in enumerate(self.layers) if name in found.spots]

    @property
    def table(self) -> Sites:
        """Every site, with the reason where it cannot be read; looked up until the model could be looked into."""
        try:
            _ = self.layers
        except SiteUnavailable as error:
            return Sites(self.family, dict.fromkeys(NAMES, str(error)))
        return self._table

    @cached_property
    def _table(self) -> Sites:
        reasons = self.sites()
        return Sites(self.family, reasons, {name: self.layers_of(name) for name in reasons})

    def sites(self) -> dict[str, str | None]:
        """Every site's name, with None where it can be read in every layer and the reason where it cannot."""
        reasons: dict[str, str | None] = {}
        for name in NAMES:
            reasons[name] = None
            try:
                if name == "logits":
                    _ = self.tail
                for layer in range(len(self.blocks)) if name in LAYERED else (None,):
                    self.spot(Site(name, layer))
            except SiteUnavailable as error:
                reasons[name] = str(error)
        return reasons


def _text_config(model: nn.Module) -> Any:
    config: Any = getattr(model, "config", None)
    return config.get_text_config(decoder=True) if hasattr(config, "get_text_config") else config
