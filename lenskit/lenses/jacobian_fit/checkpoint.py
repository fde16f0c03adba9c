"""Checkpoint: where a fit stands, in one file that is there whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lenskit.artifacts import whole_file
from lenskit.lenses.jacobian_fit.averages import Averages
from lenskit.lenses.jacobian_fit.recipe import Place
from lenskit.models.files.load_error import LoadError

FILE = "jacobian_fit.safetensors"
FORMAT = "lenskit jacobian fit 1"
_HALVES = ("even", "odd")
_SEEN = ("changes", "errors", "seconds")


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """The sums after a number of steps, and what was seen on the way.

    Attributes:
        step: how many are done: the place in the passages, since nothing else decides what comes next.
        averages: the sums.
        seen: (step, ...) the history's arrays, by name.
    """

    step: int
    averages: Averages
    seen: dict[str, Tensor]

    def write(self, folder: Path, belongs: Mapping[str, Any]) -> None:
        """Take the place of the folder's checkpoint in one step; what it `belongs` to is written with it."""
        tensors = {
            f"{half}.{place}": matrix.contiguous().cpu()
            for half, matrices in zip(_HALVES, self.averages.halves, strict=True)
            for place, matrix in matrices.items()
        }
        tensors |= {name: values.contiguous() for name, values in self.seen.items()}
        header = {
            "format": FORMAT,
            "step": str(self.step),
            "counts": json.dumps(self.averages.counts),
            "belongs": json.dumps(dict(belongs), sort_keys=True),
        }
        with whole_file(folder / FILE) as unfinished:
            save_file(tensors, unfinished, metadata=header)

    @classmethod
    def read(cls, path: Path) -> tuple[Checkpoint, dict[str, Any]]:
        """A checkpoint and what it belongs to. Raises `LoadError` where it is none or is spoilt."""
        try:
            with safe_open(path, framework="pt") as file:
                header = file.metadata() or {}
                if header.get("format") != FORMAT:
                    raise LoadError(f"{path} is no checkpoint of this version of lenskit: choose another folder.")
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 -- no mapping
        except SafetensorError as error:
            raise LoadError(f"{path} cannot be read: {error}. Take it away to begin anew.") from error
        belongs = json.loads(header["belongs"])
        seen = {name: tensors.pop(name) for name in _SEEN}
        halves = ({}, {})
        for name, matrix in tensors.items():
            half, source, layer = name.split(".")
            halves[_HALVES.index(half)][Place(source, int(layer))] = matrix
        places = tuple(Place(*each) for each in belongs["places"])
        return cls(int(header["step"]), Averages(places, halves, json.loads(header["counts"])), seen), belongs
