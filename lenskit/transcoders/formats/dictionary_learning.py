"""dictionary_learning: `ae.pt`, a state dict of torch, beside `config.json` with the trainer's settings.

What each class means (`trainer.dict_class`, or told by its tensors where they say):

- "AutoEncoder": relu(encoder(x - bias)), decoder(f) + bias: `bias` is our `centre` and our `b_dec`.
- "AutoEncoderNew": relu(encoder(x)), and the decoder has a bias of its own; nothing is subtracted.
- "AutoEncoderTopK" and "BatchTopKSAE": subtract `b_dec`, keep the `k` largest, or what is above `threshold` (which is
  negative where none was learned: such a dictionary is loaded, and refuses to encode). They have the same tensors, so
  config.json must say which.
- "MatryoshkaBatchTopKSAE": the same with `W_enc` (d_in, feature), here transposed; all its groups are used.
- "GatedAutoEncoder" (subtracts `decoder_bias`) and "JumpReluAutoEncoder" (subtracts nothing; relu above `threshold`):
  their features are as active as what they write is long: each is multiplied by the norm of its row of the decoder,
  and divided by it again to be decoded. Here that is folded in: the rows of `W_dec` have length 1.

`encoder.weight` is (feature, d_in), `decoder.weight` (d_out, feature), here transposed. The site is `submodule_name`
(`resid_post_layer_12`, or the path of a module) or the residual stream after `layer`.
Source: github.com/saprmarks/dictionary_learning, dictionary.py, utils.py and trainers.
"""

from __future__ import annotations

import re
from typing import Any

from lenskit.models.files.load_error import LoadError
from lenskit.models.sites import LAYERED, Site
from lenskit.transcoders.activations import BatchTopK, Gated, ReLU, TopK
from lenskit.transcoders.formats.making import Made, Taken, above_zero
from lenskit.transcoders.formats.pickles import Pickled
from lenskit.transcoders.formats.places import site_of
from lenskit.transcoders.formats.source import Asked, Source, plain, said
from lenskit.transcoders.transcoder import Transcoder

NAME = "dictionary_learning"
_KEPT = ("lm_name", "trainer_class", "steps", "lr", "seed", "layer", "submodule_name")
# A tensor that only this class has.
_TELLING = {
    "bias": "AutoEncoder",
    "decoder.bias": "AutoEncoderNew",
    "gate_bias": "GatedAutoEncoder",
    "group_sizes": "MatryoshkaBatchTopKSAE",
    "W_enc": "JumpReluAutoEncoder",
}
_CLASSES = (*_TELLING.values(), "AutoEncoderTopK", "BatchTopKSAE")


def found(source: Source) -> list[str]:
    """The files of this format."""
    there = [source.holding(Pickled, *each) for each in (("encoder.weight", "decoder.weight"), ("W_enc", "W_dec"))]
    files = [(name, source.weights[name]) for name in (*there[0], *there[1])]
    return [name for name, each in files if isinstance(each, Pickled) and "state_dict" not in each.content]


def read(source: Source, name: str, asked: Asked) -> Transcoder:
    """One of them."""
    settings = source.settings("config.json") or {}
    trainer = settings.get("trainer")
    trainer = trainer if isinstance(trainer, dict) else {}
    take = Taken(source, name, asked.dtype)
    kind = _class(trainer, take)
    reads = asked.reads or _site(settings, trainer, take.where)
    writes = asked.writes or (reads,)
    if kind in ("JumpReluAutoEncoder", "MatryoshkaBatchTopKSAE"):
        made = _parameters(take, trainer, kind, reads, writes)
    else:
        made = _linear(take, trainer, kind, reads, writes)
    take.refuse_the_rest()
    if kind in ("JumpReluAutoEncoder", "GatedAutoEncoder"):
        made.scale_features(made.W_dec.norm(dim=1))
    about = {"format": NAME, "class": kind, "model": trainer.get("lm_name"), **plain(trainer, _KEPT)}
    return made.transcoder(asked, about)


def _class(trainer: dict[str, Any], take: Taken) -> str:
    told = next((kind for tensor, kind in _TELLING.items() if tensor in take.left), None)
    says = trainer.get("dict_class")
    if says is None and told is None:
        raise LoadError(f"{take.where} is topk or batchtopk, and lies beside no config.json that says its dict_class.")
    if says is not None and (
        says not in _CLASSES or (told or says) != says or (told is None and says in _TELLING.values())
    ):
        raise LoadError(f"{take.where} is said to be a {says!r}, and does not look like one: known are {_CLASSES}.")
    return str(says or told)


def _linear(take: Taken, trainer: dict[str, Any], kind: str, reads: Site, writes: tuple[Site, ...]) -> Made:
    """Of the classes whose encoder and decoder are torch's linear layers."""
    W_enc = take("encoder.weight", (None, None))
    n, d_in = W_enc.shape
    bias = {"AutoEncoder": "bias", "AutoEncoderNew": "decoder.bias", "GatedAutoEncoder": "decoder_bias"}
    b_dec = take(bias.get(kind, "b_dec"), (d_in,))
    gated = kind == "GatedAutoEncoder"
    if gated:
        activation = Gated(take("gate_bias", (n,)), take("r_mag", (n,)), take("mag_bias", (n,)))
    elif kind in bias:
        activation = ReLU()
    else:
        activation = _largest(take, trainer, kind)
    return Made(
        W_enc=W_enc,
        b_enc=None if gated else take("encoder.bias", (n,)),
        W_dec=take("decoder.weight", (d_in, n)).T,
        b_dec=b_dec,
        activation=activation,
        reads=reads,
        writes=writes,
        centre=None if kind == "AutoEncoderNew" else b_dec,
    )


def _parameters(take: Taken, trainer: dict[str, Any], kind: str, reads: Site, writes: tuple[Site, ...]) -> Made:
    """Of the classes whose weights are bare parameters."""
    W_enc = take("W_enc", (None, None)).T
    n, d_in = W_enc.shape
    b_dec = take("b_dec", (d_in,))
    jumps = kind == "JumpReluAutoEncoder"
    if not jumps and float(take("group_sizes").sum()) != n:
        raise LoadError(f"{take.where} has groups of features that are not all of its {n}.")
    return Made(
        W_enc=W_enc,
        b_enc=take("b_enc", (n,)),
        W_dec=take("W_dec", (n, d_in)),
        b_dec=b_dec,
        activation=above_zero(take("threshold", (n,))) if jumps else _largest(take, trainer, kind),
        reads=reads,
        writes=writes,
        centre=None if jumps else b_dec,
    )


def _largest(take: Taken, trainer: dict[str, Any], kind: str) -> TopK | BatchTopK:
    threshold, stored = take.number("threshold"), take.number("k")
    k = said(trainer, "k", int, take.where) if stored is None else int(stored)
    if kind == "AutoEncoderTopK":
        return TopK(k)
    return BatchTopK(k, threshold if threshold is not None and threshold >= 0 else None)


def _site(settings: dict[str, Any], trainer: dict[str, Any], where: str) -> Site:
    buffer = settings.get("buffer")
    if isinstance(buffer, dict) and buffer.get("io", "out") != "out":
        raise LoadError(f"{where} was trained on a module's {buffer['io']!r}: say which site, with reads= and writes=.")
    name = trainer.get("submodule_name")
    if isinstance(name, str) and name:
        if (found := re.fullmatch(r"(\w+?)_layer_(\d{1,4})", name)) and found[1] in LAYERED:
            return Site(found[1], int(found[2]))
        return site_of(name, where)
    layer = trainer.get("layer")
    if not isinstance(layer, int) or isinstance(layer, bool):
        raise LoadError(
            f"{where} lies beside no config.json that says its layer: say reads=, such as ('resid_post', 8)."
        )
    return Site("resid_post", layer)
