"""Inspecting: what a file of a Jacobian lens says, without reading its matrices and without a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lenskit.lenses.jacobian_files.checked import brief
from lenskit.lenses.jacobian_files.reading import read


@dataclass(frozen=True)
class Inspection:
    """What a file says. What it does not say is None: loading decides it by the matrices and the model.

    Attributes:
        path: the file.
        form: which of the published forms it is.
        layers: those with a matrix, ascending.
        shape: of a matrix, (d_model out, d_in).
        dtype: as it is stored.
        source: what the matrices are derivatives by, such as `resid_post`.
        target: which residual they are derivatives of.
        model: the name of the model it was made for.
        passages: on how many it was fitted.
        components: by other sources, their layers.
        about: all else that it says.
        size: of the file, in bytes.
    """

    path: Path
    form: str
    layers: tuple[int, ...]
    shape: tuple[int, ...]
    dtype: str
    source: str | None
    target: str | None
    model: str | None
    passages: int | None
    components: Mapping[str, tuple[int, ...]]
    about: Mapping[str, Any]
    size: int

    def __repr__(self) -> str:
        unknown = "not said"
        lines = {
            "form": self.form,
            "layers": brief(list(self.layers)) if self.layers else "none",
            "shape": f"{self.shape} of {self.dtype}, {self.size / 1e6:.1f} MB in all",
            "source": self.source or unknown,
            "target": self.target or unknown,
            "model": self.model or unknown,
            "passages": unknown if self.passages is None else str(self.passages),
            **{f"also {source}": brief(list(layers)) for source, layers in self.components.items()},
        }
        return "\n".join([f"Jacobian lens at {self.path}", *(f"  {name:<9} {value}" for name, value in lines.items())])


def inspected(path: Path) -> Inspection:
    """What a file says. Raises `LoadError` where it is no Jacobian lens."""
    stored = read(path, whole=False)
    every = [stored.matrices, *stored.components.values()]
    first = next(matrix for each in every for matrix in each.values())
    target = stored.target or (
        f"the output of layer {stored.target_layer}" if stored.target_layer is not None else None
    )
    return Inspection(
        path=path,
        form=stored.form,
        layers=tuple(sorted(stored.matrices)),
        shape=tuple(first.shape),
        dtype=str(first.dtype).removeprefix("torch."),
        source=stored.source,
        target=target,
        model=stored.model or (stored.identity.model if stored.identity else None),
        passages=stored.about.get("fit", {}).get("passages"),
        components={source: tuple(sorted(each)) for source, each in stored.components.items()},
        about=stored.about,
        size=path.stat().st_size,
    )
