"""circuit-tracer: a transcoder for each layer, or a cross-layer transcoder, beside a `config.yaml`.

`config.yaml` names what they read and write in TransformerLens's words (`feature_input_hook`, `feature_output_hook`) of
a model whose norms are not folded and whose weights are not centred, so that the sites are ours.

`ln2.hook_normalized` stands before the norm's gain and bias: with the model, they are folded into the encoder, and
without, the site keeps that name, which no model has.

- By layer: `layer_{i}.safetensors` with `W_enc` (feature, d_in), `b_enc`, `W_dec` (feature, d_out), `b_dec`, maybe
  `W_skip` (d_out, d_in), maybe `activation_function.threshold`.
- Cross-layer: `W_enc_{i}.safetensors` with `W_enc_{i}`, `b_enc_{i}`, maybe `threshold_{i}`, and the bias `b_dec_{i}` of
  layer i's own output; `W_dec_{i}.safetensors` with `W_dec_{i}` (feature, layers from i on, d_out), of which only the
  layers that are asked for are read, one after another. A `W_skip_{i}` there is (d_in, d_out), the other way round, and
  goes to layer i's own output.

Nothing is subtracted from what is read. Activations: relu, "topk" with `k`, or JumpReLU, `x` where it is above its
threshold, which lets negative numbers through where that is below 0: as here.
What circuit-tracer does besides, to silence features at the first position, is no part of a dictionary.
Source: github.com/safety-research/circuit-tracer, circuit_tracer/transcoder and circuit_tracer/utils/hf_utils.py.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor

from lenskit.models.files.load_error import LoadError
from lenskit.models.sites import Site
from lenskit.transcoders.activations import Activation, JumpReLU, ReLU, TopK
from lenskit.transcoders.formats.making import Made, Taken
from lenskit.transcoders.formats.places import site_of
from lenskit.transcoders.formats.source import Asked, Source, plain, said
from lenskit.transcoders.formats.weights import Safetensors
from lenskit.transcoders.transcoder import Transcoder

NAME = "circuit-tracer"
_CONFIGS = ("config.yaml", "config.yml")
_KEPT = ("model_name", "scan", "model_kind")


def found(source: Source) -> list[str]:
    """The files of this format: for a cross-layer one, that of each layer's encoder."""
    layered = source.holding(Safetensors, "W_enc", "W_dec", "b_enc", "b_dec")
    beside = source.settings("cfg.json") if layered else None
    across = [name for name in source.weights if _number(source, name) is not None]
    return across if "d_sae" in (beside or {}) else layered + across


def read(source: Source, name: str, asked: Asked) -> Transcoder:
    """One of them."""
    settings = source.settings(*_CONFIGS) or {}
    take = Taken(source, name, asked.dtype)
    layer = _number(source, name)
    if layer is not None:
        made, about = _cross_layer(source, take, layer, settings, asked)
    else:
        made, about = _by_layer(take, settings, asked)
    take.refuse_the_rest()
    kept = {"format": NAME, **about, **plain(settings, _KEPT), "model": settings.get("model_name")}
    return made.transcoder(asked, kept)


def _number(source: Source, name: str) -> int | None:
    """The layer of a cross-layer transcoder's encoder, by the names of its tensors; None for other files."""
    for tensor in source.weights[name].shapes:
        if layer := re.fullmatch(r"W_enc_(\d{1,4})", tensor):
            return int(layer[1])
    return None


def _by_layer(take: Taken, settings: dict[str, Any], asked: Asked) -> tuple[Made, dict[str, Any]]:
    W_enc = take("W_enc", (None, None))
    n, d_in = W_enc.shape
    W_dec = take("W_dec", (n, None))
    d_out = W_dec.shape[1]
    number = re.search(r"(\d{1,4})\.\w+$", take.name)
    layer = None if number is None else int(number[1])
    threshold = take.optional("activation_function.threshold")
    made = Made(
        W_enc=W_enc,
        b_enc=take("b_enc", (n,)),
        W_dec=W_dec,
        b_dec=take("b_dec", (d_out,)),
        activation=_activation(take, settings, threshold, n),
        reads=asked.reads or _site(settings, "feature_input_hook", layer, take.where),
        writes=asked.writes or (_site(settings, "feature_output_hook", layer, take.where),),
        W_skip=take.optional("W_skip", (d_out, d_in)),
    )
    return made, {}


def _cross_layer(
    source: Source, take: Taken, i: int, settings: dict[str, Any], asked: Asked
) -> tuple[Made, dict[str, Any]]:
    W_enc = take(f"W_enc_{i}", (None, None))
    n, d_in = W_enc.shape
    beside = Source(source.folder, f"W_dec_{i}.safetensors")
    if not (source.folder / f"W_dec_{i}.safetensors").is_file():
        raise LoadError(f"{take.where} has no W_dec_{i}.safetensors beside it.")
    source.path(f"W_dec_{i}.safetensors")
    decoder = Taken(beside, f"W_dec_{i}.safetensors", asked.dtype)
    shape = decoder.weights.shapes.get(f"W_dec_{i}", ())
    if len(shape) != 3 or shape[0] != n:
        raise LoadError(f"{decoder.where} should hold W_dec_{i} ({n}, layers, d_out), and it is {shape}.")
    _, layers, d_out = shape
    there = [_site(settings, "feature_output_hook", i + each, take.where) for each in range(layers)]
    writes = asked.writes or tuple(there)
    if unknown := [site for site in writes if site not in there]:
        raise LoadError(f"{take.where} does not write {unknown[0]}: it writes {', '.join(map(str, there))}.")
    W_dec = torch.empty(len(writes), n, d_out, dtype=asked.dtype)
    for place, site in zip(W_dec, writes, strict=True):
        place.copy_(decoder(f"W_dec_{i}", at=there.index(site)))
    made = Made(
        W_enc=W_enc,
        b_enc=take(f"b_enc_{i}", (n,)),
        W_dec=W_dec,
        b_dec=_at_own(take(f"b_dec_{i}", (d_out,)), writes, there[0]),
        activation=_activation(take, settings, take.optional(f"threshold_{i}"), n),
        reads=asked.reads or _site(settings, "feature_input_hook", i, take.where),
        writes=writes,
    )
    skip = take.optional(f"W_skip_{i}", (d_in, d_out))
    if skip is not None:
        made.W_skip = _at_own(skip.T, writes, there[0])
    return made, {"cross_layer": True}


def _at_own(value: Tensor, writes: tuple[Site, ...], own: Site) -> Tensor:
    """A tensor for each site that is written: the value at the layer's own, and zeros elsewhere."""
    found = value.new_zeros(len(writes), *value.shape)
    if own in writes:
        found[writes.index(own)] = value
    return found


def _activation(take: Taken, settings: dict[str, Any], threshold: Tensor | None, n: int) -> Activation:
    kind = settings.get("activation")
    k = take.number("k")
    if kind == "topk" or (kind is None and k is not None):
        if threshold is not None:
            raise LoadError(f"{take.where} is said to be topk, and holds thresholds: which is right?")
        return TopK(int(k) if k is not None else said(settings, "k", int, take.where))
    if threshold is None:
        if kind in (None, "relu"):
            return ReLU()
        raise LoadError(f"{take.where} is said to have the activation {kind!r}, and holds no threshold.")
    if kind == "relu" or threshold.numel() != n:
        raise LoadError(f"{take.where} holds {threshold.numel()} thresholds for {n} features and activation {kind!r}.")
    return JumpReLU(threshold.reshape(n))


def _site(settings: dict[str, Any], which: str, layer: int | None, where: str) -> Site:
    hook = settings.get(which)
    if not isinstance(hook, str) or layer is None:
        raise LoadError(
            f"{where} lies beside no config.yaml that says {which!r}, or has no layer in its name: say reads= and "
            "writes=."
        )
    return site_of(f"blocks.{layer}.{hook}", where)
