"""Reading: a file of a Jacobian lens as what it says by itself, told apart by its keys and never by its name.

The forms, and where they were found:

- `J` by layer, `n_prompts`, `source_layers`, `d_model`: the reference package's, and Neuronpedia's; TransformerLens
  adds `metadata`, newer ones of Neuronpedia `provenance`.
- `jacobian_sum` by layer and `n_done`: a checkpoint of the reference's fit. Its sums are divided here.
- `avg_jacobians` by layer, `n_proj`, `model_id`: the jspace package's, an approximation by random probes.
- `J_0`, `J_1`, ... with `n_prompts` and `d_model`: numpy's, of WeZZard's MLX package.
- `0`, `1`, ... in safetensors, with a JSON file beside: of fblissjr's MLX package.
- lenskit's own lens, and a checkpoint of its fit.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from torch import Tensor

from lenskit.lenses.jacobian_files import own
from lenskit.lenses.jacobian_files.opening import Opened, number, opened, plain
from lenskit.lenses.jacobian_files.stored import Stored, Target
from lenskit.lenses.jacobian_fit import checkpoint
from lenskit.models.files.load_error import LoadError
from lenskit.models.identity import Identity

LENSKIT = "lenskit"
"""The key of the reference format's metadata under which lenskit writes what it knows."""


def read(path: Path, whole: bool = True) -> Stored:
    """What a file says by itself. Raises `LoadError` for one in none of the forms, with its keys.

    Not `whole`: matrices are as they are stored, and their numbers may not be there.
    """
    file = opened(path, whole)
    form = file.header.get("format")
    if form == own.FORMAT:
        return own.read(path, whole)
    if form == checkpoint.FORMAT:
        return _own_checkpoint(path, whole)
    entries = file.entries
    if affine := [key for key in entries if re.search(r"mean|bias", str(key))]:
        raise LoadError(
            f"{path} has {', '.join(map(str, affine[:3]))} beside its matrices: it is an affine lens and no Jacobian "
            "lens, and means something else."
        )
    if "J" in entries:
        return _reference(file)
    if "jacobian_sum" in entries:
        return _sums(file, whole)
    if "avg_jacobians" in entries:
        return _jspace(file)
    if any(re.fullmatch(r"J_\d+", str(key)) for key in entries):
        return _numbered(file, "J_", "numpy, of an MLX package")
    if any(str(key).isdigit() for key in entries):
        return _numbered(file, "", "safetensors with a file beside, of an MLX package")
    raise LoadError(
        f"{path} is no Jacobian lens in any form that is known: it has the keys {file.keys}. Lenses have J, "
        "jacobian_sum, avg_jacobians, J_0 and so on, or 0 and so on."
    )


# The forms


def _reference(file: Opened) -> Stored:
    entries = file.entries
    metadata = _mapping(entries.get("metadata"))
    if LENSKIT in metadata:
        return _written_here(file, metadata[LENSKIT])
    provenance = _mapping(entries.get("provenance"))
    if (reduced := provenance.get("stream_reduce")) not in (None, "none", ""):
        raise LoadError(
            f"{file.path} is of a model with several residual streams ({reduced!r} of them), which a Jacobian lens "
            "here does not read."
        )
    name = "TransformerLens's" if "transformer_lens_fit" in metadata else "the reference package's"
    said = {"metadata": metadata, "provenance": provenance, "beside": file.beside}
    return _stored(file, f"{name} lens", entries["J"], entries.get("n_prompts"), metadata | provenance, said)


def _sums(file: Opened, whole: bool) -> Stored:
    entries = file.entries
    count = number(entries.get("n_done", entries.get("n_prompts")))
    if count is None or count < 1:
        raise LoadError(f"{file.path} holds sums over passages and says {count!r} of them, so there is no mean.")
    layers = _by_layer(file, entries["jacobian_sum"])
    said = {"metadata": _mapping(entries.get("metadata")), "beside": file.beside}
    words = said["metadata"] | {key: value for key, value in entries.items() if key != "jacobian_sum"}
    means = {layer: matrix.float() / count if whole else matrix for layer, matrix in layers.items()}
    return _stored(file, "a checkpoint of the reference package's fit, whose sums", means, count, words, said)


def _jspace(file: Opened) -> Stored:
    entries = file.entries
    words = {key: value for key, value in entries.items() if key not in ("avg_jacobians", "corpus_jh")}
    said = {"metadata": plain(words), "beside": file.beside, "approximate": {"probes": number(entries.get("n_proj"))}}
    layers = _by_layer(file, entries["avg_jacobians"], entries.get("layer_indices"))
    words |= {"source": "resid_post", "target": "final", "model_name": entries.get("model_id")}
    # Its last layer is the identity but for the noise of its probes, and up to a factor that the final norm takes out.
    return _stored(file, "jspace's approximation", layers, None, words, said)


def _numbered(file: Opened, prefix: str, form: str) -> Stored:
    matrices, words = {}, dict(file.beside)
    for key, value in file.entries.items():
        found = re.fullmatch(rf"{prefix}(\d+)", str(key))
        if found:
            matrices[int(found[1])] = value
        else:
            words[str(key)] = value
    return _stored(file, form, matrices, words.get("n_prompts"), words, {"beside": plain(words)})


def _written_here(file: Opened, said: Any) -> Stored:
    """What lenskit wrote in the reference format."""
    try:
        identity, target = Identity.from_dict(said["identity"]), said["target"]
        about, source = dict(said["about"]), said["source"]
    except (KeyError, TypeError, ValueError) as error:
        raise LoadError(f"{file.path} cannot be read as a Jacobian lens of lenskit: {error}") from error
    matrices = _by_layer(file, file.entries["J"])
    return Stored(
        form="lenskit's, in the reference format",
        matrices=matrices if source == "resid_post" else {},
        source=source,
        target=target,
        identity=identity,
        about=about,
        components={} if source == "resid_post" else {source: matrices},
    )


def _own_checkpoint(path: Path, whole: bool) -> Stored:
    found, belongs = checkpoint.Checkpoint.read(path)
    means, recipe = found.averages.means(whole), belongs["recipe"]
    about = {"fit": {**recipe, "passages": found.averages.passages, "checkpoint": True}}
    return Stored(
        form="a checkpoint of lenskit's fit",
        matrices=means.pop("resid_post", {}),
        source="resid_post",
        target=recipe["target"],
        identity=Identity.from_dict(belongs["identity"]),
        about=about,
        components=means,
    )


# What they have in common


def _stored(
    file: Opened, form: str, matrices: Any, count: Any, words: Mapping[str, Any], said: Mapping[str, Any]
) -> Stored:
    """A stored lens of what a file has and says, in the words of the packages that write such files."""
    target = words.get("target")
    config = file.beside.get("model_name") or file.beside.get("model_id")
    name = words.get("model_name") or words.get("model_id") or config
    fit = {
        "passages": number(count),
        "skip_first": number(words.get("skip_first_positions", words.get("skip_first"))),
        "chunk": number(words.get("max_seq_len")),
        "corpus": words.get("corpus"),
        "dtype": words.get("fit_dtype"),
    }
    about = {"form": form, "fit": {key: value for key, value in fit.items() if value is not None}}
    about |= {key: plain(value) for key, value in said.items() if value}
    return Stored(
        form=form,
        matrices=_by_layer(file, matrices, words.get("source_layers")),
        source=_source(words),
        target=target if target in get_args(Target) else None,
        target_layer=number(words.get("target_layer")),
        model=str(name) if name else None,
        about=about,
    )


def _source(words: Mapping[str, Any]) -> str | None:
    """What a file says that its matrices are derivatives by, or None."""
    convention = str(words.get("hook_convention") or words.get("capture_point") or words.get("source") or "")
    if re.search(r"hook_out\b|resid_post|block_output", convention):
        return "resid_post"
    return "z" if re.search(r"hook_z\b|o_proj|^z$", convention) else None


def _by_layer(file: Opened, matrices: Any, layers: Any = None) -> dict[int, Tensor]:
    """Matrices by layer, of a mapping, or of a stack with the layers beside it."""
    if isinstance(matrices, Tensor) and matrices.dim() == 3:
        matrices = dict(zip(layers if layers is not None else range(len(matrices)), matrices, strict=True))
    found = dict[int, Tensor]()
    for key, matrix in matrices.items() if isinstance(matrices, Mapping) else ():
        if not str(key).isdigit() or not isinstance(matrix, Tensor) or matrix.dim() != 2:
            raise LoadError(f"{file.path} has {plain(matrix)} for layer {key!r}, where a matrix should be.")
        if not matrix.is_floating_point():
            raise LoadError(f"{file.path} has whole numbers ({matrix.dtype}) for layer {key!r}.")
        found[int(key)] = matrix
    if not found:
        raise LoadError(f"{file.path} has no matrix for any layer: its keys are {file.keys}.")
    return dict(sorted(found.items()))


def _mapping(value: Any) -> dict[str, Any]:
    return {str(key): each for key, each in value.items()} if isinstance(value, Mapping) else {}
