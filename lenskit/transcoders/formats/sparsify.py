"""sparsify: a folder for each module, `cfg.json` beside `sae.safetensors`.

- `encoder.weight` is (feature, d_in), `W_dec` (feature, d_out): as here.
- An SAE, and a transcoder of the time before cfg.json had `transcode`, subtracts `b_dec` first: our `centre`. Today's
  transcoders do not.
- `activation`: "topk" of what is positive (the only one at first), or "groupmax".
- `W_skip` is (d_out, d_in), and reads what stands there, without the `b_dec`.
- The module is what the folder is called, seen from the model's inner part (`layers.5.mlp`): its output is read and
  written, or with `transcode` its input read. Given the model, that becomes the site that it is.

Not represented, and refused: `signed` features, and what later versions add to the output by n-gram or embedding.
Source: github.com/EleutherAI/sparsify, sparsify/sparse_coder.py.
"""

from __future__ import annotations

from lenskit.models.files.load_error import LoadError
from lenskit.models.sites import Site
from lenskit.transcoders.activations import GroupMax, TopK
from lenskit.transcoders.formats.making import Made, Taken
from lenskit.transcoders.formats.source import Asked, Source, said
from lenskit.transcoders.formats.weights import Safetensors
from lenskit.transcoders.transcoder import Transcoder

NAME = "sparsify"
_OTHER = ("signed", "embed_skip", "gram_lookup")


def found(source: Source) -> list[str]:
    """The files of this format."""
    names = source.holding(Safetensors, "encoder.weight", "W_dec")
    return names if names and source.settings("cfg.json") is not None else []


def read(source: Source, name: str, asked: Asked) -> Transcoder:
    """One of them."""
    settings = source.settings("cfg.json") or {}
    take = Taken(source, name, asked.dtype)
    if other := [each for each in _OTHER if settings.get(each)]:
        raise LoadError(f"{take.where} was trained with {', '.join(other)}, which is not represented.")
    d_in, k = said(settings, "d_in", int, take.where), said(settings, "k", int, take.where)
    W_enc = take("encoder.weight", (None, d_in))
    n = len(W_enc)
    transcodes = bool(settings.get("transcode"))
    skip = bool(settings.get("skip_connection"))
    b_dec = take("b_dec", (d_in,))
    module = Site(source.folder.name)
    made = Made(
        W_enc=W_enc,
        b_enc=take("encoder.bias", (n,)),
        W_dec=take("W_dec", (n, d_in)),
        b_dec=b_dec,
        activation=_activation(settings.get("activation", "topk"), k, n, take.where),
        reads=Site(f"{module.name}.input") if transcodes or skip else module,
        writes=(module,),
        W_skip=take("W_skip", (d_in, d_in)) if skip else None,
        centre=None if transcodes else b_dec,
    )
    take.refuse_the_rest()
    return made.transcoder(asked, {"format": NAME, "hookpoint": module.name})


def _activation(kind: object, k: int, n: int, where: str) -> TopK | GroupMax:
    if kind == "topk":
        return TopK(k)
    if kind == "groupmax" and 0 < k <= n and n % k == 0:
        return GroupMax(k)
    raise LoadError(f"{where} has the activation {kind!r} with k={k} of {n} features: topk and groupmax are known.")
