"""Where each part is in this architecture: found in the module tree, then verified on a small forward.

Nothing is listed per model. The tree gives the blocks, the embedding and the head. What a block adds to the residual
stream, and what stands between the last block and the logits, is found by *looking* (probe.py): the modules' real
inputs and outputs are put together until they give the block's output, and a site that does not add up is not offered.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from lenskit.models.probe import Call, Probe, same, share
from lenskit.models.sites import LAYERED, NAMES, Site, SiteUnavailable
from lenskit.models.taps import Point


@dataclass(frozen=True)
class Spot:
    """A point, and the factor by which its tensor enters the residual stream (1 but for residual multipliers)."""

    point: Point
    factor: float = 1.0


@dataclass(frozen=True)
class Tail:
    """The model's own way from the last residual to the logits: modules, then head, then scale and soft-cap."""

    modules: tuple[nn.Module, ...]
    head: nn.Module
    scale: float = 1.0
    softcap: float | None = None

    def normed(self, h: Tensor) -> Tensor:
        """What the head reads: `h` (..., d_model) after the final norm."""
        for module in self.modules:
            h = module(h)
        return h

    def finish(self, scores: Tensor) -> Tensor:
        """Logits from the head's output: scaled and soft-capped as the model does it, in place where it may."""
        if self.scale != 1.0:
            scores = scores * self.scale
        if self.softcap is not None:
            scores = torch.tanh(scores / self.softcap) * self.softcap
        return scores


@dataclass
class Anatomy:
    """The parts of one Hugging Face model. `spot(site)` says where a site is, or raises `SiteUnavailable`."""

    model: nn.Module
    missing: dict[str, str] = field(default_factory=dict)
    _spots: dict[tuple[str, tuple[int, ...]], list[Spot]] = field(default_factory=dict, repr=False)

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
        lists = [m for m in self.model.modules() if isinstance(m, nn.ModuleList) and len(m)]
        depth = getattr(_text_config(self.model), "num_hidden_layers", None)
        fitting = [m for m in lists if len(m) == depth] or lists
        if not fitting:
            raise SiteUnavailable(
                f"{self.family} has no list of blocks: lenskit found no torch.nn.ModuleList in it. "
                "It can be run, but has none of lenskit's named sites."
            )
        return max(fitting, key=lambda blocks: sum(p.numel() for p in blocks.parameters()))

    @cached_property
    def embedding(self) -> nn.Module:
        """The token embedding, as the model itself names it."""
        return self.model.get_input_embeddings()  # pyright: ignore[reportCallIssue] -- a PreTrainedModel

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
    def probe(self) -> Probe:
        """The small forward on which the rest is verified."""
        return Probe.take(self.model, self.blocks, self.vocab)

    @cached_property
    def causal(self) -> bool:
        """Whether a later token changes nothing before it, as measured: a decoder's promise, and no encoder's."""
        tokens = self.probe.tokens[:, :-1]
        with torch.no_grad():
            shorter = self.model(input_ids=tokens).logits
        # Another length may take another kernel, whose noise goes through all layers; looking ahead shows in percents.
        return same(shorter, self.probe.logits[:, :-1], least=1e-4)

    @cached_property
    def tail(self) -> Tail:
        """The verified way from the last residual to the logits. Raises `SiteUnavailable` where it does not add up."""
        return _find_tail(self)

    @cached_property
    def writers(self) -> list[dict[str, Spot]]:
        """For each block: where `attn_out`, `mlp_out` and `resid_mid` are, as far as they were found and verified."""
        found = [_find_writers(self.probe, block) for block in self.blocks]
        for name in ("attn_out", "resid_mid", "mlp_out"):
            without = [layer for layer, spots in enumerate(found) if name not in spots]
            if without:
                self.missing[name] = self._reason(name, without, found)
        return found

    def _reason(self, name: str, without: list[int], found: list[dict[str, Spot]]) -> str:
        layers = "" if len(without) == len(self.blocks) else f" (layers {without})"
        if name == "resid_mid" and "attn_out" in found[without[0]]:
            return f"attention and MLP run in parallel{layers}. Use 'attn_out' or 'mlp_out'."
        return (
            f"no two modules of a block add up to what the block adds to the residual stream{layers}. "
            "Use 'resid_pre' and 'resid_post'."
        )

    def spot(self, site: Site) -> Spot:
        """Where `site` is seen. Raises `SiteUnavailable` with the reason, or if its layer is out of range."""
        name, layer = site
        if name == "embed":
            return Spot(Point(self.embedding, "output"))
        if name == "final_norm":
            if not self.tail.modules:
                raise SiteUnavailable(
                    f"'final_norm' does not exist in {self.family}: the head reads the last residual."
                )
            return Spot(Point(self.tail.modules[0], "output"))
        if name == "logits":
            raise SiteUnavailable("'logits' is every run's own: read run.logits.")
        if layer is None or not 0 <= layer < len(self.blocks):
            raise SiteUnavailable(f"{site} does not exist: {self.family} has layers 0 to {len(self.blocks) - 1}.")
        if name in ("resid_pre", "resid_post"):
            return Spot(Point(self.blocks[layer], "input" if name == "resid_pre" else "output"))
        if name not in self.writers[layer]:
            raise SiteUnavailable(f"{name!r} does not exist in {self.family}: {self.missing[name]}")
        return self.writers[layer][name]

    def spots(self, name: str, layers: tuple[int, ...]) -> list[Spot]:
        """The spots of a site in these layers (the one spot, of a site that exists once), found once."""
        if (name, layers) not in self._spots:
            self._spots[name, layers] = [self.spot(Site(name, layer)) for layer in layers or (None,)]
        return self._spots[name, layers]

    def sites(self) -> dict[str, str | None]:
        """Every site's name, with None where it can be read and the reason where it cannot."""
        reasons: dict[str, str | None] = {}
        for name in NAMES:
            reasons[name] = None
            try:
                if name == "logits":
                    _ = self.tail
                elif name in LAYERED:
                    for layer in range(len(self.blocks)):
                        self.spot(Site(name, layer))
                else:
                    self.spot(Site(name))
            except SiteUnavailable as error:
                reasons[name] = str(error)
        return reasons


def _text_config(model: nn.Module) -> Any:
    config: Any = getattr(model, "config", None)
    return config.get_text_config(decoder=True) if hasattr(config, "get_text_config") else config


def _find_writers(probe: Probe, block: nn.Module) -> dict[str, Spot]:
    """Search the block's modules for the two whose outputs make up what the block adds to the residual stream."""
    pre, post = probe.residuals(block)
    for inside in (probe.children(block), probe.descendants(block)):
        outputs = [call for call in inside if call.output.shape == pre.shape]
        mixer = next((i for i, call in enumerate(outputs) if call.mixes_positions), None)
        if mixer is None:
            continue
        for attn in outputs[mixer:]:
            for mlp in reversed(outputs):
                if mlp is attn or mlp.end < attn.end:
                    continue
                factors = share(pre, post, attn.output, mlp.output)
                if factors is not None:
                    spots = {
                        "attn_out": Spot(Point(attn.module, "output"), factors[0]),
                        "mlp_out": Spot(Point(mlp.module, "output"), factors[1]),
                    }
                    middle = pre + factors[0] * attn.output
                    reader = next((c for c in inside if c.begin > attn.begin and same(c.input, middle)), None)
                    if reader is not None:
                        spots["resid_mid"] = Spot(Point(reader.module, "input"))
                    return spots
    return {}


def _find_tail(anatomy: Anatomy) -> Tail:
    """Follow the last residual through the modules that read it, up to the head, and see what becomes of its scores."""
    probe, head = anatomy.probe, anatomy.model.get_output_embeddings()  # pyright: ignore[reportCallIssue]
    value, modules = probe.residuals(anatomy.blocks[-1])[1], []
    calls = probe.after_blocks()
    scores: Call | None = next((call for call in calls if call.module is head), None)
    if scores is None:
        raise SiteUnavailable(
            f"'logits' does not exist in {anatomy.family}: it has no output embedding that is called."
        )
    for call in calls:
        if not same(scores.input, value) and call.module is not head and same(call.input, value):
            modules.append(call.module)
            value = call.output
    if not same(scores.input, value):
        raise SiteUnavailable(
            f"the way from the last residual to the logits of {anatomy.family} could not be followed: something other "
            "than modules changes the residual before the head. A lens needs it; model.run() works."
        )
    scale, softcap = _find_finish(anatomy, scores.output, probe.logits)
    return Tail(tuple(modules), scores.module, scale, softcap)


def _find_finish(anatomy: Anatomy, scores: Tensor, logits: Tensor) -> tuple[float, float | None]:
    """The scale and the soft-cap between the head's output and the logits. Raises where neither explains them."""
    if same(scores, logits):
        return 1.0, None
    config = _text_config(anatomy.model)
    cap = getattr(config, "final_logit_softcapping", None)
    if cap and same(torch.tanh(scores / cap) * cap, logits):
        return 1.0, float(cap)
    scale = float((scores.double() * logits.double()).sum() / scores.double().square().sum())
    for stated in (getattr(config, "logit_scale", None), getattr(config, "logits_scaling", None)):
        for candidate in (stated, 1 / stated) if stated else ():
            scale = candidate if math.isclose(scale, candidate, rel_tol=1e-4) else scale
    if same(scores * scale, logits):
        return scale, None
    raise SiteUnavailable(
        f"what {anatomy.family} does to its head's output is neither a scale nor a soft-cap: a lens cannot repeat it. "
        "model.run() works."
    )
