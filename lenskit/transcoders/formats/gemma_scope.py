"""GemmaScope 1 and 2: JumpReLU dictionaries of the Gemma models.

GemmaScope 1 is `params.npz` with `W_enc` (d_in, feature), `b_enc`, `W_dec`, `b_dec`, `threshold`. Nothing in it says
where it belongs; only its place does, `gemma-scope-2b-pt-res/layer_20/...`. It is read from there where it is laid out
so, as on the hub, and must be said with `reads=` and `writes=` otherwise.

GemmaScope 2 is a safetensors file with `w_enc` (d_in, feature), `b_enc`, `w_dec`, `b_dec`, `threshold`, and for some
transcoders `affine_skip_connection` (d_in, d_out), here transposed; `config.json` says the site as the path of a
module.

Its transcoders read the residual normalised, before the gain of the norm: with the model, that is folded into the
encoder, and without, the site keeps TransformerLens's name for it, `ln2.hook_normalized`, which no model has.
GemmaScope 2's read what comes out of the norm, `mlp_in`.

Both: nothing is subtracted from what is read; a feature is active where it is above its threshold, and then relu of it,
so that a threshold below 0 is one of 0. Attention's dictionaries read `z` with its heads side by side.

Not represented, and refused: the crosscoders and cross-layer transcoders of GemmaScope 2, whose decoders write all
layers.
Source: huggingface.co/google/gemma-scope and gemma-scope-2; circuit-tracer's and SAELens's readers of them.
"""

from __future__ import annotations

import re

from lenskit.models.files.load_error import LoadError
from lenskit.models.sites import Site
from lenskit.transcoders.formats.making import Made, Taken, above_zero
from lenskit.transcoders.formats.places import site_of
from lenskit.transcoders.formats.source import Asked, Source, plain
from lenskit.transcoders.formats.weights import Arrays, Safetensors
from lenskit.transcoders.transcoder import Transcoder

NAME = "GemmaScope"
_ARRAYS = ("W_enc", "W_dec", "b_enc", "b_dec", "threshold")
_TENSORS = ("w_enc", "w_dec", "b_enc", "b_dec", "threshold")
# What the last word of a repository's name stands for: what is read and what is written.
_KINDS = {
    "res": ("resid_post", "resid_post"),
    "mlp": ("mlp_out", "mlp_out"),
    "att": ("z", "z"),
    "transcoders": ("", "mlp_out"),
}


def found(source: Source) -> list[str]:
    """The files of this format."""
    return [*source.holding(Arrays, *_ARRAYS), *source.holding(Safetensors, *_TENSORS)]


def read(source: Source, name: str, asked: Asked) -> Transcoder:
    """One of them."""
    take = Taken(source, name, asked.dtype)
    first = "W_enc" in take.weights.shapes
    enc, dec = ("W_enc", "W_dec") if first else ("w_enc", "w_dec")
    if len(take.weights.shapes[dec]) != 2:
        raise LoadError(f"{take.where} writes several layers at once ({take.weights.shapes[dec]}): not represented.")
    W_enc = take(enc, (None, None)).T
    n, d_in = W_enc.shape
    W_dec = take(dec, (n, None))
    d_out = W_dec.shape[1]
    skip = take.optional("affine_skip_connection", (d_in, d_out))
    settings = source.settings("config.json") or {}
    reads, writes = _first(source, asked, take.where) if first else _second(settings, asked, take.where)
    made = Made(
        W_enc=W_enc,
        b_enc=take("b_enc", (n,)),
        W_dec=W_dec,
        b_dec=take("b_dec", (d_out,)),
        activation=above_zero(take("threshold", (n,))),
        reads=reads,
        writes=(writes,),
        W_skip=None if skip is None else skip.T,
    )
    take.refuse_the_rest()
    about = {"format": f"{NAME} {1 if first else 2}", "model": settings.get("model_name")}
    return made.transcoder(asked, about | plain(settings, ("architecture", "l0", "type")))


def _first(source: Source, asked: Asked, where: str) -> tuple[Site, Site]:
    if asked.reads is not None:
        return asked.reads, asked.writes[0] if asked.writes else asked.reads
    parts = source.folder.absolute().parts
    layers = [int(part.removeprefix("layer_")) for part in parts if re.fullmatch(r"layer_\d{1,4}", part)]
    kinds = [part.rsplit("-", 1)[-1] for part in parts if "gemma-scope-" in part]
    if len(layers) != 1 or len(kinds) != 1 or kinds[0] not in _KINDS:
        raise LoadError(
            f"{where} does not say where it belongs, and does not lie where GemmaScope keeps it "
            "(gemma-scope-...-res/layer_20/...): say it, such as reads=('resid_post', 20), and writes= for a "
            "transcoder."
        )
    reads, writes = _KINDS[kinds[0]]
    return (
        Site(reads, layers[0]) if reads else Site(f"blocks.{layers[0]}.ln2.hook_normalized"),
        Site(writes, layers[0]),
    )


def _second(settings: dict[str, object], asked: Asked, where: str) -> tuple[Site, Site]:
    reads = asked.reads or site_of(settings.get("hf_hook_point_in"), where)
    if asked.writes is not None:
        return reads, asked.writes[0]
    return reads, reads if asked.reads else site_of(
        settings.get("hf_hook_point_out", settings.get("hf_hook_point_in")), where
    )
