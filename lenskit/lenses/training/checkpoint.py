"""Checkpoint: where a training stands, in one file that is there whole or not at all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lenskit.artifacts import whole_file
from lenskit.models.files.load_error import LoadError

FILE = "checkpoint.safetensors"
FORMAT = "lenskit training 1"
_OPTIMIZER = "optimizer"


@dataclass(frozen=True)
class Checkpoint:
    """The state after a number of steps.

    Attributes:
        step: how many are done. The order of the data is a function of the recipe's seed and this number, and nothing
            else is drawn, so that it is the position in the data and the random state too.
        parameters: what is trained, by name.
        optimizer: its state, by number of the parameter and name.
        losses: (step, layer) so far.
    """

    step: int
    parameters: dict[str, Tensor]
    optimizer: dict[int, dict[str, Tensor]]
    losses: Tensor

    def write(self, folder: Path, belongs: Mapping[str, Any]) -> None:
        """Take the place of the folder's checkpoint in one step; what it `belongs` to is written with it."""
        tensors = {name: value.detach().contiguous().cpu() for name, value in self.parameters.items()}
        tensors |= {
            f"{_OPTIMIZER}.{number}.{name}": value.detach().contiguous().cpu()
            for number, state in self.optimizer.items()
            for name, value in state.items()
            if value is not None
        }
        header = {"format": FORMAT, "step": str(self.step), "belongs": json.dumps(dict(belongs), sort_keys=True)}
        with whole_file(folder / FILE) as unfinished:
            save_file(tensors | {"losses": self.losses.contiguous()}, unfinished, metadata=header)

    @classmethod
    def read(cls, folder: Path) -> tuple[Checkpoint, dict[str, Any]] | None:
        """The folder's checkpoint and what it belongs to; None where there is none. Raises `LoadError` if spoilt."""
        path = folder / FILE
        if not path.exists():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                header = file.metadata() or {}
                if header.get("format") != FORMAT:
                    raise LoadError(f"{path} is no checkpoint of this version of lenskit: choose another folder.")
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 -- no mapping
        except SafetensorError as error:
            raise LoadError(f"{path} cannot be read: {error}. Take it away to begin anew.") from error
        losses, optimizer = tensors.pop("losses"), dict[int, dict[str, Tensor]]()
        for key in [key for key in tensors if key.startswith(f"{_OPTIMIZER}.")]:
            _, number, name = key.split(".")
            optimizer.setdefault(int(number), {})[name] = tensors.pop(key)
        return cls(int(header["step"]), tensors, optimizer, losses), json.loads(header["belongs"])


def digest(ids: Tensor) -> str:
    """SHA-256 of token ids, to know the data again."""
    return hashlib.sha256(ids.cpu().contiguous().to(torch.int64).numpy().data).hexdigest()
