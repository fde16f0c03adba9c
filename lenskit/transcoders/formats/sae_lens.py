"""SAELens: `cfg.json` beside `sae_weights.safetensors`, and sometimes `sparsity.safetensors`.

Its numbers, of versions 2 to 6 (configurations were flat before 6, and name the site in `metadata` since):

- `W_enc` is (d_in, feature), here transposed; `W_dec` is (feature, d_out).
- `apply_b_dec_to_input` (on unless it says otherwise) subtracts `b_dec` from what is read: our `centre`. Transcoders
  never do.
- `normalize_activations`: "constant_norm_rescale" is our `normalise="norm"` and "layer_norm" our "layer norm", undone
  for SAEs and left for transcoders (`restores`). "expected_average_only_in" multiplies by one number for all tokens,
  which is folded into the weights; it is read from `norm_scaling_factor` in cfg.json or `activation_scaler.json`.
- activations: "standard" (relu, or what `activation_fn` says), "topk", "jumprelu" (relu above its threshold, so a
  threshold below 0 is one of 0), "gated", "batchtopk" (relu above `topk_threshold`), and the transcoders "transcoder",
  "skip_transcoder", "jumprelu_transcoder".
- `rescale_acts_by_decoder_norm`: features are chosen as if the decoder's rows had length 1, here folded.
- `finetuning_scaling_factor` multiplies each feature before the decoder, here folded into `W_dec`.
- A site with heads (`hook_z`) is read with its heads side by side, as a `Transcoder` does of itself.
- `ln2.hook_normalized` stands before the norm's gain and bias, in TransformerLens: with the model, they are folded into
  the encoder (as for `transcoder_circuits`), and without, the site keeps that name, which no model has.
- Where the model was loaded with `center_writing_weights`, what is read from and written to the residual stream has
  mean 0 over its last axis: folded into the encoder, and said by `centred_output`.

Source: github.com/jbloomAus/SAELens, sae_lens/saes and sae_lens/loading.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lenskit.models.files.load_error import LoadError
from lenskit.models.sites import Site
from lenskit.transcoders.activations import Activation, BatchTopK, Gated, ReLU, TopK
from lenskit.transcoders.formats.making import Made, Taken, above_zero, sparsity
from lenskit.transcoders.formats.places import site_of
from lenskit.transcoders.formats.source import Asked, Source, plain, said
from lenskit.transcoders.formats.weights import Safetensors
from lenskit.transcoders.transcoder import Transcoder

NAME = "SAELens"
_TRANSCODERS = ("transcoder", "skip_transcoder", "jumprelu_transcoder")
_OLD_NAMES = {
    "hook_name": "hook_point",
    "hook_head_index": "hook_point_head_index",
    "activation_fn": "activation_fn_str",
}
_CENTRED = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")
_KEPT = ("model_name", "hook_name", "dataset_path", "context_size", "prepend_bos", "sae_lens_version", "neuronpedia_id")


def found(source: Source) -> list[str]:
    """The files of this format."""
    names = source.holding(Safetensors, "W_enc", "W_dec", "b_dec")
    settings = source.settings("cfg.json") if names else None
    return names if settings is not None and "d_sae" in settings else []


def read(source: Source, name: str, asked: Asked) -> Transcoder:
    """One of them."""
    settings = _settings(source)
    take = Taken(source, name, asked.dtype)
    architecture = said(settings, "architecture", str, take.where)
    d_in, n = said(settings, "d_in", int, take.where), said(settings, "d_sae", int, take.where)
    transcodes = architecture in _TRANSCODERS
    d_out = said(settings, "d_out", int, take.where) if transcodes else d_in
    W_dec = take("W_dec", (n, d_out))
    if (factor := _finetuned(take, settings, n)) is not None:
        W_dec = W_dec * factor[:, None]
    reads, writes = _sites(settings, take.where, asked, transcodes)
    b_dec = take("b_dec", (d_out,))
    centred = not transcodes and settings.get("apply_b_dec_to_input", True)
    made = Made(
        W_enc=take("W_enc", (d_in, n)).T,
        b_enc=None if architecture == "gated" else take("b_enc", (n,)),
        W_dec=W_dec,
        b_dec=b_dec,
        activation=_activation(take, settings, architecture, n),
        reads=reads,
        writes=(writes,),
        W_skip=take("W_skip", (d_out, d_in)) if architecture == "skip_transcoder" else None,
        centre=b_dec if centred else None,
    )
    take.refuse_the_rest()
    if settings.get("rescale_acts_by_decoder_norm"):
        made.scale_features(W_dec.norm(dim=1))
    _normalise(made, settings, source, take.where, transcodes)
    _centre(made, settings)
    about = {"format": NAME, "architecture": architecture, **plain(settings, _KEPT)}
    if (densities := _sparsity(source, n)) is not None:
        about["log10_sparsity"] = densities
    return made.transcoder(asked, {**about, "model": settings.get("model_name")})


def _settings(source: Source) -> dict[str, Any]:
    """The settings, flat, under the names that they have today."""
    settings = dict(source.settings("cfg.json") or {})
    for nested in ("metadata", "meta"):
        inner = settings.pop(nested, None)
        settings |= (
            {key: value for key, value in inner.items() if key not in settings} if isinstance(inner, dict) else {}
        )
    for now, before in _OLD_NAMES.items():
        if settings.get(now) is None and before in settings:
            settings[now] = settings[before]
    settings.setdefault("architecture", "standard")
    return settings


def _sites(settings: dict[str, Any], where: str, asked: Asked, transcodes: bool) -> tuple[Site, Site]:
    if asked.reads is not None:
        reads = asked.reads
    else:
        reads = site_of(settings.get("hook_name"), where, settings.get("hook_head_index"))
    if not transcodes:
        return reads, reads
    if asked.writes is not None:
        return reads, asked.writes[0]
    return reads, site_of(settings.get("hook_name_out"), where, settings.get("hook_head_index_out"))


def _activation(take: Taken, settings: dict[str, Any], architecture: str, n: int) -> Activation:
    function = settings.get("activation_fn") or "relu"
    if architecture in ("jumprelu", "jumprelu_transcoder"):
        return above_zero(take("threshold", (n,)))
    if architecture == "gated":
        return Gated(take("b_gate", (n,)), take("r_mag", (n,)), take("b_mag", (n,)))
    if architecture == "batchtopk":
        threshold = take.number("topk_threshold")
        if threshold is None:
            raise LoadError(f"{take.where} is a BatchTopK dictionary without its topk_threshold.")
        return BatchTopK(max(1, round(said(settings, "k", float | int, take.where))), threshold)  # pyright: ignore
    if architecture == "topk" or (architecture == "standard" and function == "topk"):
        more = settings.get("activation_fn_kwargs")
        return TopK(said({**(more if isinstance(more, dict) else {}), **settings}, "k", int, take.where))
    if architecture in ("standard", "transcoder", "skip_transcoder") and function == "relu":
        return ReLU()
    raise LoadError(
        f"{take.where} has the architecture {architecture!r} with the activation {function!r}, which cannot be "
        "represented: relu, topk, jumprelu, gated and batchtopk can."
    )


def _finetuned(take: Taken, settings: dict[str, Any], n: int) -> Tensor | None:
    """By how much each feature is multiplied before the decoder."""
    factor = take.optional("scaling_factor", (n,))
    if factor is not None and bool((factor == 1).all()):
        return None
    if factor is not None and not settings.get("finetuning_scaling_factor"):
        raise LoadError(f"{take.where} holds a scaling_factor, and its cfg.json says nothing of one: which is right?")
    return factor if factor is not None else take.optional("finetuning_scaling_factor", (n,))


def _normalise(made: Made, settings: dict[str, Any], source: Source, where: str, transcodes: bool) -> None:
    how = settings.get("normalize_activations") or "none"
    if how is True:  # as it was called before there were several
        how = "expected_average_only_in"
    if how == "none":
        return
    if made.W_skip is not None:
        raise LoadError(
            f"{where} normalises ({how!r}) what its features read, and not its skip: that is not represented."
        )
    if how in ("constant_norm_rescale", "layer_norm"):
        made.normalise = "norm" if how == "constant_norm_rescale" else "layer norm"
        made.restores = not transcodes
    elif how == "expected_average_only_in":
        scaler = source.settings("activation_scaler.json") or {}
        factor = settings.get("norm_scaling_factor", scaler.get("scaling_factor"))
        if transcodes:
            raise LoadError(f"{where} multiplies what it reads by a number, and does not say so of what it writes.")
        if isinstance(factor, bool) or not isinstance(factor, int | float) or not 1e-12 < factor < 1e12:
            raise LoadError(
                f"{where} was trained on activations multiplied by a number that its files do not say: write it into "
                'cfg.json as "norm_scaling_factor".'
            )
        made.scale_input(float(factor))
    else:
        raise LoadError(f"{where} normalises its input in a way that is not known: {how!r}.")


def _centre(made: Made, settings: dict[str, Any]) -> None:
    options = settings.get("model_from_pretrained_kwargs")
    if not isinstance(options, dict) or options.get("center_writing_weights") is not True:
        return
    if made.normalise != "none":
        raise LoadError("it normalises what it reads of a model with centred weights: that is not represented.")
    if made.reads.name in _CENTRED:
        made.centre_input()
    made.centred_output = made.writes[0].name in _CENTRED


def _sparsity(source: Source, n: int) -> list[float] | None:
    beside = Source(source.folder)
    names = beside.holding(Safetensors, "sparsity")
    return sparsity(beside.weights[names[0]].take("sparsity"), n) if names else None
