"""Where dictionaries are kept: lenskit's own file, and the published formats, told apart by what is in them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from lenskit.artifacts import whole_file
from lenskit.models.files.load_error import LoadError
from lenskit.models.files.row_steps import in_steps
from lenskit.models.identity import Identity, ModelMismatch
from lenskit.models.model import Model
from lenskit.models.sites import Site, SiteLike
from lenskit.transcoders.activations import KINDS, Activation
from lenskit.transcoders.formats import (
    circuit_tracer,
    dictionary_learning,
    gemma_scope,
    sae_lens,
    sparsify,
    transcoder_circuits,
)
from lenskit.transcoders.formats.making import Taken, as_tensors
from lenskit.transcoders.formats.reading import reading
from lenskit.transcoders.formats.source import Asked, Source, in_order
from lenskit.transcoders.formats.weights import Safetensors
from lenskit.transcoders.hub import find
from lenskit.transcoders.transcoder import Transcoder, as_sites

FORMAT = "lenskit transcoder 1"
_PUBLISHED = (sae_lens, sparsify, gemma_scope, circuit_tracer, dictionary_learning, transcoder_circuits)
_DEEPEST = 4  # folders within folders
_MATRICES = ("W_enc", "W_dec", "W_skip")
_STEP = "_step"
# What TransformerLens and its users call models whose name on the hub is another.
_NICKNAMES = {"gpt2-small": "gpt2"}


@dataclass(frozen=True)
class Header:
    """What a saved dictionary says of itself.

    Attributes:
        reads, writes: its sites.
        n_features, d_in, d_out: its sizes.
        activation: the activation's kind, and its numbers, such as `{"kind": "topk", "k": 32}`.
        normalise, restores, centred_output: as in `Transcoder`.
        skip, centre: whether it has W_skip and a centre.
        identity: which model it belongs to, or None where that is not known.
        about: where it comes from.
    """

    reads: Site
    writes: tuple[Site, ...]
    n_features: int
    d_in: int
    d_out: int
    activation: dict[str, Any]
    normalise: str
    restores: bool
    centred_output: bool
    skip: bool
    centre: bool
    identity: Identity | None
    about: dict[str, Any]


def save(
    transcoder: Transcoder, path: str | Path, model: Model | None = None, *, dtype: torch.dtype | None = None
) -> Path:
    """Write one safetensors file, whole or not at all; see `Transcoder.save`."""
    path = Path(path).expanduser()
    path = path if path.suffix == ".safetensors" else path.with_name(f"{path.name}.safetensors")
    activation = transcoder.activation
    tensors = _written({**dict(transcoder.named_parameters(recurse=False)), **as_tensors(activation)}, dtype)
    numbers = {name: getattr(activation, name) for name in ("k", "threshold") if hasattr(activation, name)}
    numbers = {name: value for name, value in numbers.items() if not isinstance(value, Tensor)}
    identity = Identity.of(model) if model is not None else transcoder.identity
    fields = {
        "reads": str(transcoder.reads),
        "writes": [str(site) for site in transcoder.writes],
        "activation": {"kind": activation.kind, **numbers},
        "normalise": transcoder.normalise,
        "restores": transcoder.restores,
        "centred_output": transcoder.centred_output,
        "identity": None if identity is None else identity.as_dict(),
        "about": transcoder.about,
    }
    header = {"format": FORMAT, "fields": json.dumps(fields, allow_nan=False)}
    with whole_file(path) as unfinished:
        save_file(tensors, unfinished, metadata=header)
    return path


def inspect(where: str | Path) -> Header:
    """The header of a saved dictionary, without its weights; see `Transcoder.inspect`."""
    path = Path(where).expanduser()
    with reading(path):
        source = Source.at(path)
        names = _own(source)
        if len(names) != 1:
            raise LoadError(f"{path} is not one dictionary that lenskit saved, but {len(names)}.")
        return _header(source, names[0])


def load(
    where: str | Path,
    model: Model | None = None,
    *,
    reads: SiteLike | None = None,
    writes: SiteLike | Iterable[SiteLike] | None = None,
    dtype: torch.dtype = torch.float32,
    revision: str | None = None,
) -> Transcoder:
    """Read a dictionary; see `Transcoder.load`."""
    asked = Asked(
        model, None if reads is None else as_sites(reads)[0], None if writes is None else as_sites(writes), dtype
    )
    with reading(where):
        source = Source.at(find(where, revision))
        there = _there(source)
        if not there:
            raise LoadError(_nothing(source))
        if len(there) > 1:
            raise LoadError(
                f"{source} holds {len(there)} dictionaries: load one by its file, such as "
                f"{source.folder / there[0][1]}, or all of them with Transcoder.load_all."
            )
        return _read(source, *there[0], asked)


def load_all(
    where: str | Path,
    model: Model | None = None,
    *,
    layers: Iterable[int] | None = None,
    dtype: torch.dtype = torch.float32,
    revision: str | None = None,
) -> list[Transcoder]:
    """Read all dictionaries of a folder; see `Transcoder.load_all`."""
    wanted = None if layers is None else set(layers)
    found: list[Transcoder] = []
    with reading(where):
        root = find(where, revision)
        for folder in _folders(root):
            source = Source.at(folder)
            for reader, name in _there(source):
                each = _read(Source(source.folder, name), reader, name, Asked(model, dtype=dtype))
                if wanted is None or each.reads.layer in wanted:
                    found.append(each)
        if not found:
            raise LoadError(_nothing(Source.at(root)))
    return sorted(found, key=lambda each: (each.reads.layer is not None, each.reads.layer or 0))


def _folders(root: Path) -> list[Path]:
    """A folder and those in it, links not followed, as deep as dictionaries are laid out."""
    found, level = [root], [root]
    for _ in range(_DEEPEST):
        level = [
            each
            for folder in level
            if folder.is_dir()
            for each in sorted(folder.iterdir(), key=lambda each: in_order(each.name))
            if each.is_dir() and not each.is_symlink() and not each.name.startswith(".")
        ]
        found += level
    return found


def _there(source: Source) -> list[tuple[Any, str]]:
    """The dictionaries of a source: who reads them (None: lenskit itself), and the name of the file.

    Raises `LoadError` where two formats could be meant.
    """
    own = _own(source)
    found = [(None, name) for name in own]
    for reader in _PUBLISHED:
        found += [(reader, name) for name in reader.found(source) if name not in own]
    names = [name for _, name in found]
    if len(set(names)) != len(names):
        both = [reader.NAME for reader, name in found if reader is not None and names.count(name) > 1]
        raise LoadError(f"{source} could be of the formats {', '.join(both)}: what is beside it does not belong to it.")
    return found


def _read(source: Source, reader: Any, name: str, asked: Asked) -> Transcoder:
    if reader is None:
        transcoder = _read_own(source, name, asked)
    else:
        transcoder = reader.read(source, name, asked)
        transcoder.about["file"] = name
    if asked.model is not None:
        _check(transcoder, asked.model, source)
    return transcoder


# lenskit's own


def _own(source: Source) -> list[str]:
    files = source.weights.items()
    return [name for name, each in files if isinstance(each, Safetensors) and each.about.get("format") == FORMAT]


def _header(source: Source, name: str) -> Header:
    weights = source.weights[name]
    assert isinstance(weights, Safetensors)
    fields = json.loads(weights.about["fields"])
    shapes = weights.shapes
    (n, d_in), (_, _, d_out) = shapes["W_enc"], shapes["W_dec"]
    activation, about = fields["activation"], fields["about"]
    if not isinstance(activation, dict) or activation.get("kind") not in KINDS or not isinstance(about, dict):
        raise LoadError(f"{source.folder / name} has an activation or a history that is not known: {activation}.")
    identity = fields["identity"]
    return Header(
        reads=as_sites(fields["reads"])[0],
        writes=as_sites(fields["writes"]),
        n_features=n,
        d_in=d_in,
        d_out=d_out,
        activation=activation,
        normalise=fields["normalise"],
        restores=fields["restores"] is True,
        centred_output=fields["centred_output"] is True,
        skip="W_skip" in shapes,
        centre="centre" in shapes,
        identity=None if identity is None else Identity.from_dict(identity),
        about=about,
    )


def _read_own(source: Source, name: str, asked: Asked) -> Transcoder:
    header = _header(source, name)
    take = Taken(source, name, asked.dtype)
    writes = header.writes if asked.writes is None else asked.writes
    n, d_in, d_out = header.n_features, header.d_in, header.d_out
    transcoder = Transcoder(
        _matrix(take, "W_enc", (n, d_in)),
        take("b_enc", (n,)),
        _matrix(take, "W_dec", (len(header.writes), n, d_out)),
        take("b_dec", (len(header.writes), d_out)),
        _activation(header.activation, take),
        reads=asked.reads or header.reads,
        writes=writes,
        W_skip=_matrix(take, "W_skip", (len(header.writes), d_out, d_in)) if header.skip else None,
        centre=take.optional("centre"),
        normalise=header.normalise,  # pyright: ignore[reportArgumentType] -- checked by it
        restores=header.restores,
        centred_output=header.centred_output,
        about=header.about,
    )
    take.refuse_the_rest()
    transcoder.identity = header.identity
    return transcoder


def _written(tensors: dict[str, Tensor], dtype: torch.dtype | None) -> dict[str, Tensor]:
    """The tensors as they stand in the file: as they are, as other floats, or matrices in steps of int8."""
    if dtype not in (None, torch.float32, torch.float16, torch.bfloat16, torch.int8):
        raise ValueError(f"numbers are written as they are, or as float32, float16, bfloat16 or int8: not {dtype}.")
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        value = tensor.detach().cpu()
        if dtype == torch.int8 and name in _MATRICES:
            found[name], found[name + _STEP] = in_steps(value)
        else:
            found[name] = value.to({None: value.dtype, torch.int8: torch.float32}.get(dtype, dtype)).contiguous()
    for name, value in found.items():
        if not bool(value.isfinite().all()):
            raise ValueError(f"{name} holds numbers that are none, or do not fit {dtype}: nothing was written.")
    return found


def _matrix(take: Taken, name: str, shape: tuple[int, ...]) -> Tensor:
    """A matrix of the file, (..., row, column), from its steps where it is written in steps."""
    value, step = take(name, shape), take.optional(name + _STEP, (*shape[:-1], 1))
    if (take.weights.take(name).dtype == torch.int8) != (step is not None):
        raise LoadError(f"{take.where} holds {name} as int8 without {name}{_STEP}, or that without int8.")
    return value if step is None else value * step


def _activation(fields: dict[str, Any], take: Taken) -> Activation:
    tensors = [name for name in take.weights.shapes if name.startswith("activation.")]
    values = {name: value for name, value in fields.items() if name != "kind"}
    values |= {name.removeprefix("activation."): take(name) for name in tensors}
    return KINDS[fields["kind"]](**values)


# Which model


def _check(transcoder: Transcoder, model: Model, source: Source) -> None:
    """Raise `ModelMismatch` unless it is for this model, as far as its files say which it is for."""
    what, instead = f"the dictionary at {source}", "train one for this model with Transcoder.train"
    if transcoder.identity is not None:
        transcoder.identity.check(model, what, instead)
        return
    stated = transcoder.about.get("model")
    if isinstance(stated, str) and _nickname(stated) != _nickname(model.name):
        raise ModelMismatch(
            f"{what} was made for {stated!r}, and this is {model.name!r}: load it without model=, if so."
        )
    for site in (transcoder.reads, *transcoder.writes):
        if site.layer is not None and site.layer >= model.n_layers:
            raise ModelMismatch(f"{what} is of {site}, and {model.name} has layers 0 to {model.n_layers - 1}.")
    d_model = Identity.of(model).d_model
    for site, width in ((transcoder.reads, transcoder.d_in), *((site, transcoder.d_out) for site in transcoder.writes)):
        if site.name in ("resid_pre", "resid_mid", "resid_post", "mlp_in", "mlp_out", "attn_in", "attn_out") and (
            width != d_model
        ):
            raise ModelMismatch(f"{what} has {width} numbers at {site}, and {model.name} has {d_model}.")


def _nickname(name: str) -> str:
    last = name.rstrip("/").split("/")[-1].lower()
    return _NICKNAMES.get(last, last)


def _nothing(source: Source) -> str:
    known = ", ".join(["lenskit", *(reader.NAME for reader in _PUBLISHED)])
    there = ", ".join(source.names[:8]) or "no files"
    return f"{source} holds no dictionary that is known: it has {there}. Known formats: {known}."
