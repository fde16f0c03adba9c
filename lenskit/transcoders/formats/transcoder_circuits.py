"""transcoder_circuits, and the SAEs of that time: a `.pt` or `.pkl.gz` with `cfg`, an object, and `state_dict`.

`cfg` is an object of a class that no longer exists: its fields are read as plain data, its code is not looked for.

- `W_enc` is (d_in, feature), here transposed; relu(W_enc (x - b_dec) + b_enc); then `W_dec`, plus `b_dec_out` for a
  transcoder and `b_dec` for an SAE.
- They were trained on TransformerLens's *processed* model, in which each norm's gain and bias are folded into the
  weights after it, and what is written to the residual stream has mean 0 over its last axis. So on the model of
  Hugging Face what a transcoder calls `ln2.hook_normalized` is the residual after normalisation, *before* gain and
  bias, and what it writes is `mlp_out` less its mean: `centred_output`.
- Given the model, gain g and bias b of its norm are folded into the encoder, with our x = g * (theirs) + b:
  W_enc / g, centre b + g * b_dec; then it reads `mlp_in`. Without, it reads what the model has no site for, and
  keeps that name; `model.weights.norm("mlp_in", 8).normalise(resid_mid)` is what it reads.
- Sites of the residual stream have mean 0 there: folded into the encoder.

`..._log_feature_sparsity.pt` beside it is kept in `about`.
Source: github.com/jacobdunefsky/transcoder_circuits, sae_training.
"""

from __future__ import annotations

import re
from typing import Any

from lenskit.models.files.load_error import LoadError
from lenskit.transcoders.activations import ReLU
from lenskit.transcoders.formats.making import Made, Taken, sparsity
from lenskit.transcoders.formats.pickles import Fields, Pickled, Stored
from lenskit.transcoders.formats.places import site_of
from lenskit.transcoders.formats.source import Asked, Source, plain, said
from lenskit.transcoders.transcoder import Transcoder

NAME = "transcoder_circuits"
_CENTRED = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")
_KEPT = ("model_name", "hook_point", "out_hook_point", "dataset_path", "context_size", "l1_coefficient", "lr", "seed")
_SPARSITY = "_log_feature_sparsity"


def found(source: Source) -> list[str]:
    """The files of this format."""
    return [
        name
        for name in source.holding(Pickled, "W_enc", "W_dec", "b_dec")
        if isinstance(each := source.weights[name], Pickled) and {"cfg", "state_dict"} <= set(each.content)
    ]


def read(source: Source, name: str, asked: Asked) -> Transcoder:
    """One of them."""
    take = Taken(source, name, asked.dtype)
    settings = _settings(take)
    transcodes = bool(settings.get("is_transcoder"))
    W_enc = take("W_enc", (None, None)).T
    n, d_in = W_enc.shape
    W_dec = take("W_dec", (n, None))
    d_out = W_dec.shape[1]
    b_dec = take("b_dec", (d_in,))
    hook, out = settings.get("hook_point"), settings.get("out_hook_point") if transcodes else None
    head = settings.get("hook_point_head_index")
    writes = site_of(out, take.where) if transcodes and asked.writes is None else None
    reads = asked.reads or site_of(hook, take.where, head)
    made = Made(
        W_enc=W_enc,
        b_enc=take("b_enc", (n,)),
        W_dec=W_dec,
        b_dec=take("b_dec_out", (d_out,)) if transcodes else b_dec,
        activation=ReLU(),
        reads=reads,
        writes=asked.writes or (writes or reads,),
        centre=b_dec,
    )
    take.refuse_the_rest()
    about: dict[str, Any] = {"format": NAME, "model": said(settings, "model_name", str, take.where)}
    about |= plain(settings, _KEPT)
    if made.reads.name in _CENTRED:
        made.centre_input()
    made.centred_output = made.writes[0].name in _CENTRED
    if (densities := _sparsity(source, name, n)) is not None:
        about["log10_sparsity"] = densities
    return made.transcoder(asked, about)


def _settings(take: Taken) -> dict[str, Any]:
    weights = take.weights
    cfg = weights.content["cfg"] if isinstance(weights, Pickled) else None
    cfg = cfg.fields if isinstance(cfg, Fields) else cfg
    if not isinstance(cfg, dict | type(Fields.fields)):
        raise LoadError(f"{take.where} has a cfg that is no settings.")
    return dict(cfg)


def _sparsity(source: Source, name: str, n: int) -> list[float] | None:
    stem = re.sub(r"(\.pkl)?\.\w+$", "", name)
    beside = next((each for each in source.names if each.startswith(f"{stem}{_SPARSITY}")), None)
    if beside is None:
        return None
    content = Pickled(source.path(beside)).content
    return sparsity(content.take(), n) if isinstance(content, Stored) else None
