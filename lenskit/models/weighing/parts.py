"""Parts: the projections and norms of each block, found in the model's own numbers, and tried on another prompt."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor, nn

from lenskit.models.anatomy import Anatomy
from lenskit.models.finding.neurons import _FUNCTIONS as FUNCTIONS
from lenskit.models.finding.probe import same
from lenskit.models.sites import Site, SiteUnavailable
from lenskit.models.weighing.evidence import Evidence, Seen
from lenskit.models.weighing.norms import Norm, norm_of
from lenskit.models.weighing.projections import Linear, Product, Reader, Writer, find_reader, find_writer, products

_PROMPTS = 16
_HEADS = {"W_Q": "q", "W_K": "k", "W_V": "v"}
_WRITERS = {"W_O": ("z", "attn_out"), "W_out": ("mlp_post", "mlp_out")}


@dataclass
class Layer:
    """What was found in one block, by the view's name (`"W_Q"`, ...), and why the rest was not.

    `norms` are those in front of `attn_in` and `mlp_in`. `group` is how many query heads share a key-value head, and
    `mixed` whether `z` is nothing but their values, weighted: else a gate stands between.
    """

    readers: dict[str, Reader] = field(default_factory=dict)
    writers: dict[str, Writer] = field(default_factory=dict)
    norms: dict[str, Norm] = field(default_factory=dict)
    group: int | None = None
    mixed: bool = True
    missing: dict[str, str] = field(default_factory=dict)


class Parts:
    """The parts of every block of a model. Found at once when first asked for, by two short forwards."""

    def __init__(self, anatomy: Anatomy) -> None:
        self.anatomy = anatomy

    @cached_property
    def layers(self) -> list[Layer]:
        """One `Layer` for each block."""
        device = self.anatomy.probe.tokens.device
        first = [[self.anatomy.vocab * k // (_PROMPTS + 1)] for k in range(1, _PROMPTS + 1)]
        # Prompts of one token each: that is where rotary embeddings turn nothing and a head sees only itself.
        evidence = Evidence.take(self.anatomy, torch.tensor(first, device=device), watch=True)
        again = Evidence.take(self.anatomy, self.anatomy.probe.tokens, watch=False)
        layers = list[Layer]()
        for at in range(len(self.anatomy.blocks)):
            layer = _find_layer(evidence, at, layers[-1] if layers else Layer())
            _try(layer, again, at)
            layers.append(layer)
        return layers

    def reader(self, name: str, layer: int) -> Reader:
        """The columns that are `W_Q`, `W_K`, `W_V`, `W_in` or `W_gate`. Raises `SiteUnavailable` with the reason."""
        found = self.layers[layer]
        if name not in found.readers:
            raise self._unavailable(name, layer)
        return found.readers[name]

    def writer(self, name: str, layer: int) -> Writer:
        """What is `W_O` or `W_out`. Raises `SiteUnavailable` with the reason."""
        found = self.layers[layer]
        if name not in found.writers:
            raise self._unavailable(name, layer)
        return found.writers[name]

    def norm(self, site: str, layer: int) -> Norm:
        """The norm in front of `attn_in` or `mlp_in`. Raises `SiteUnavailable` with the reason."""
        found = self.layers[layer]
        if site not in found.norms:
            raise self._unavailable(f"the norm before {site!r}", layer)
        return found.norms[site]

    def group(self, layer: int) -> int:
        """How many query heads share a key-value head. Raises `SiteUnavailable` where they do not."""
        group = self.layers[layer].group
        if group is None:
            raise self._unavailable("OV", layer)
        return group

    def _unavailable(self, name: str, layer: int) -> SiteUnavailable:
        sites = {"W_in": ("mlp_pre",), "W_gate": ("mlp_pre",), "OV": ("z", "v"), **{k: (v,) for k, v in _HEADS.items()}}
        missing = self.layers[layer].missing.get(name)
        if missing is None:  # a site that it is found by does not exist: its own reason says most
            for site in (*sites.get(name, ()), *_WRITERS.get(name, ()), *("attn_in", "mlp_in")):
                try:
                    self.anatomy.spot(Site(site, layer))
                except SiteUnavailable as error:
                    missing = f"it is found by a site that is not there. {error}"
                    break
        family = f"layer {layer} of {self.anatomy.family}"
        return SiteUnavailable(f"{name} does not exist in {family}: {missing or 'nothing like it was found'}")


def _find_layer(evidence: Evidence, at: int, before: Layer) -> Layer:
    layer = Layer()
    _find_heads(evidence, at, layer, before)
    _find_neurons(evidence, at, layer, before)
    for name, (held, written) in _WRITERS.items():
        holds, writes = evidence.sites.get((held, at)), evidence.flat(written, at)
        if holds is None or writes is None:
            continue
        calls = evidence.calls[at]
        call = next((c for c in calls if _is_linear_of(c, holds.flatten(1))), None)
        found: Writer | str = "no matrix product reads it"
        if call is not None:
            found = find_writer(call, holds.shape[2:], writes, evidence.shifts.get((written, at)), calls)
        if isinstance(found, str):
            layer.missing[name] = found
        else:
            layer.writers[name] = found
    for site in ("attn_in", "mlp_in"):
        _find_norm(evidence, at, site, layer)
    return layer


def _is_linear_of(call: Seen, x: Tensor) -> bool:
    weight = getattr(call.module, "weight", None)
    fits = isinstance(weight, Tensor) and call.input.numel() == x.numel() and not list(call.module.children())
    return fits and torch.equal(call.input.reshape(x.shape), x)


def _find_heads(evidence: Evidence, at: int, layer: Layer, before: Layer) -> None:
    reads = evidence.flat("attn_in", at)
    if reads is None:
        return
    calls = evidence.calls[at]
    sources = products(calls, reads)
    for name, site in _HEADS.items():
        target = evidence.sites.get((site, at))
        if target is None:
            continue
        reader = find_reader(target[:, 0], sources, calls, before.readers.get(name))
        if reader is None:
            layer.missing[name] = (
                f"no matrix product of 'attn_in' holds the numbers of {site!r} (a latent, a quantised or "
                f"offloaded weight, or something between that is no module). Use the site {site!r}."
            )
        else:
            layer.readers[name] = reader
    z, v = evidence.sites.get(("z", at)), evidence.sites.get(("v", at))
    if z is not None and v is not None:
        layer.group, layer.mixed = _group(z[:, 0], v[:, 0])
        if layer.group is None:
            layer.missing["OV"] = "'z' has no whole number of heads for each head of 'v'. Use W_V and W_O."


def _group(z: Tensor, v: Tensor) -> tuple[int | None, bool]:
    """How many heads of `z` share one of `v`; and whether at the first position each is its value, or a share of it."""
    group, rest = divmod(z.shape[1], v.shape[1])
    if rest or z.shape[2] != v.shape[2]:
        return None, False
    values = v.repeat_interleave(group, dim=1).double()
    shares = (z.double() * values).sum(-1, keepdim=True) / values.square().sum(-1, keepdim=True).clamp_min(1e-30)
    return group, same((shares * values).to(z.dtype), z)


def _find_neurons(evidence: Evidence, at: int, layer: Layer, before: Layer) -> None:
    reads, pre, post = (evidence.flat(name, at) for name in ("mlp_in", "mlp_pre", "mlp_post"))
    if reads is None or pre is None or post is None:
        return
    calls = evidence.calls[at]
    sources = products(calls, reads)
    opens = find_reader(pre, sources, calls, before.readers.get("W_gate") or before.readers.get("W_in"))
    if opens is None:
        for name in ("W_in", "W_gate"):
            layer.missing[name] = (
                "no matrix product of 'mlp_in' holds the numbers of 'mlp_pre' (a quantised or offloaded weight, or "
                "something between that is no module). Use the site 'mlp_pre'."
            )
        return
    active = [call.output.reshape(pre.shape) for call in calls if _reads(call, pre)]
    active += [function(pre) for function in FUNCTIONS]
    if any(_times(one, post) is not None for one in active):
        layer.readers["W_in"] = opens
        layer.missing["W_gate"] = "its MLP is not gated. Use W_in."
        return
    layer.readers["W_gate"] = opens
    for source in sources:
        columns = _unused(source, opens)
        if len(columns) == post.shape[1]:
            for one in active:
                if (factor := _times(one * source.output[:, columns], post)) is not None:
                    layer.readers["W_in"] = Reader(source.linear, columns, factor)
                    return
    layer.missing["W_in"] = "what multiplies the gate was not found. Use the sites 'mlp_in' and 'mlp_post'."


def _unused(source: Product, opens: Reader) -> Tensor:
    """The columns of a product that the gate does not use."""
    every = torch.arange(source.output.shape[1], device=source.output.device)
    if source.linear != opens.linear:
        return every
    return every[~torch.isin(every, opens.columns)]


def _reads(call: Seen, x: Tensor) -> bool:
    same_size = call.input.numel() == x.numel() == call.output.numel()
    return same_size and torch.equal(call.input.reshape(x.shape), x)


def _times(made: Tensor, post: Tensor) -> float | None:
    """The factor with which `made` is `post`, or None."""
    if same(made, post):
        return 1.0
    m, p = made.double(), post.double()
    factor = float((m * p).sum() / m.square().sum().clamp_min(1e-30))
    return factor if factor and same((m * factor).to(post.dtype), post) else None


def _find_norm(evidence: Evidence, at: int, site: str, layer: Layer) -> None:
    """The norm of the residual stream that gives `site`, or none where the residual stream itself is read."""
    read, pre, attn = (evidence.flat(name, at) for name in (site, "resid_pre", "attn_out"))
    if read is None or pre is None:
        return
    streams = [pre] if site == "attn_in" or attn is None else [pre, pre + attn]
    if any(same(read, stream) for stream in streams):
        layer.norms[site] = Norm()
        return
    for call in evidence.calls[at]:
        gives = _gives(call, read) and any(same(call.input.reshape(read.shape), stream) for stream in streams)
        if gives and (norm := norm_of(call.module, call.input, call.output)) is not None:
            layer.norms[site] = norm
            return
    layer.missing[f"the norm before {site!r}"] = f"no LayerNorm or RMSNorm of the residual stream gives {site!r}."


def _gives(call: Seen, x: Tensor) -> bool:
    return call.input.numel() == x.numel() == call.output.numel() and torch.equal(call.output.reshape(x.shape), x)


def _try(layer: Layer, again: Evidence, at: int) -> None:
    """Try what was found on five tokens at five positions, and take back what does not give the model's numbers."""
    for name, site, read in (("W_V", "v", "attn_in"), ("W_gate", "mlp_pre", "mlp_in"), ("W_in", "mlp_pre", "mlp_in")):
        reader = layer.readers.get(name)
        if reader is None or reader.note or (name == "W_in" and "W_gate" in layer.readers):
            continue
        x, target = again.sites[read, at], again.sites[site, at]
        if not same(_apply(reader.linear, x)[..., reader.columns] * reader.factor, target):
            del layer.readers[name]
            layer.missing[name] = (
                f"'{read}' times its matrix is not {site!r} at later positions. Use the site {site!r}."
            )
    for name, (held, written) in _WRITERS.items():
        writer = layer.writers.get(name)
        if writer is None:
            continue
        made = _apply(writer.linear, again.sites[held, at].flatten(2))
        if writer.post_norm is not None and isinstance(writer.post_norm.module, nn.Module):
            with torch.no_grad():
                made = writer.post_norm.module(made)
        made = made * writer.factor + (0.0 if writer.shift is None else writer.shift.detach())
        if not same(made, again.sites[written, at]):
            del layer.writers[name]
            layer.missing[name] = f"'{held}' times its matrix is not {written!r} at later positions."


def _apply(linear: Linear, x: Tensor) -> Tensor:
    made = x @ linear.matrix
    return made if linear.bias is None else made + linear.bias
