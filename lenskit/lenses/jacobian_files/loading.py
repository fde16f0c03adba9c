"""Loading: the lens at a place, decided in a model and checked to be that model's."""

from __future__ import annotations

from pathlib import Path

from lenskit.lenses.jacobian_files import places
from lenskit.lenses.jacobian_files.meaning import meant
from lenskit.lenses.jacobian_files.reading import read
from lenskit.lenses.jacobian_files.stored import Stored, Target
from lenskit.models.identity import Identity, d_model_of
from lenskit.models.model import Model


def loaded(
    model: Model,
    where: str | Path | None,
    source: str | None,
    target: Target | None,
    revision: str | None,
    cache_dir: str | Path | None,
) -> Stored:
    """The lens at `where`, with its source and target decided. Raises `LoadError` and `ModelMismatch`."""
    path = places.find(where, model.name, revision=revision, cache_dir=cache_dir)
    name = path if where is None else where
    stored = meant(read(path), model, name, source, target)
    identity = stored.identity
    if identity is None and stored.model is not None:
        identity = Identity(stored.model, d_model_of(model), model.n_layers)
    if identity is not None:
        identity.check(model, f"the lens at {name}", "fit a lens to this one with JacobianLens.fit(model, texts)")
    return stored
