"""Checkpoint: where a training of dictionaries stands, in one file that is there whole or not at all."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lenskit.artifacts import only_one_process, whole_file
from lenskit.models.files.load_error import LoadError

FILE = "checkpoint.safetensors"
FORMAT = "lenskit dictionary training 1"
EVERY = 60.0  # seconds between two


class Checkpoint:
    """Written now and then, between two steps.

    Args:
        folder: where it is kept.
        belongs: all that the training depends on, by name, as JSON can hold it: another one's checkpoint is refused.
    """

    def __init__(self, folder: Path, belongs: Mapping[str, Any]) -> None:
        self.path, self.belongs = folder / FILE, json.loads(json.dumps(dict(belongs)))
        self._written = time.monotonic()

    def alone(self) -> AbstractContextManager[object]:
        """While it lasts, no other training writes into the folder; what a killed one left half-written is gone."""
        return only_one_process(self.path)

    def read(self) -> list[dict[str, Tensor]] | None:
        """Each dictionary's state, or None where nothing was written.

        Raises `LoadError` for a file that is spoilt, `ValueError` for that of another training.
        """
        if not self.path.exists():
            return None
        try:
            with safe_open(self.path, framework="pt") as file:
                header = file.metadata() or {}
                if header.get("format") != FORMAT:
                    raise LoadError(f"{self.path} is no checkpoint of this version of lenskit: choose another folder.")
                self._check(json.loads(header["belongs"]))
                states = [dict[str, Tensor]() for _ in range(int(header["dictionaries"]))]
                for key in file.keys():  # noqa: SIM118 -- no mapping
                    number, _, name = key.partition(".")
                    states[int(number)][name] = file.get_tensor(key)
        except SafetensorError as error:
            raise LoadError(f"{self.path} cannot be read: {error}. Take it away to begin anew.") from error
        return states

    def _check(self, was: Mapping[str, Any]) -> None:
        differing = [name for name in self.belongs if was.get(name) != self.belongs[name]]
        if differing:
            raise ValueError(
                f"{self.path} is the checkpoint of another training: its {', '.join(differing)} are others, so this "
                "one cannot go on from there. Choose another folder."
            )

    def is_due(self) -> bool:
        """Whether the last time is a while ago."""
        return time.monotonic() - self._written > EVERY

    def write(self, states: list[dict[str, Tensor]]) -> None:
        """Take the place of the folder's checkpoint in one step."""
        tensors = {
            f"{number}.{name}": tensor.detach().contiguous().cpu()
            for number, state in enumerate(states)
            for name, tensor in state.items()
        }
        header = {"format": FORMAT, "dictionaries": str(len(states)), "belongs": json.dumps(self.belongs)}
        with whole_file(self.path) as unfinished:
            save_file(tensors, unfinished, metadata=header)
        self._written = time.monotonic()
