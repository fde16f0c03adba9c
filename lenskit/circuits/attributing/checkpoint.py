"""Checkpoint: an attribution's work on disk, taken up again after an interruption."""

from __future__ import annotations

import hashlib
import json
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from lenskit.artifacts import only_one_process, whole_file
from lenskit.circuits.attributing.rows import Batch

if TYPE_CHECKING:
    from lenskit.circuits.attributing.attribution_work import Attribution

_FORMAT = "lenskit attribution 2"


@dataclass(frozen=True)
class Checkpoint:
    """A file that holds the rows that are there, and what is next."""

    path: Path

    def alone(self) -> AbstractContextManager[object]:
        """While it lasts, no other work writes the file; what one that was killed left half-written is gone."""
        return only_one_process(self.path)

    def keep(self, work: Attribution) -> None:
        """Write what is there now, whole or not at all."""
        rows = work.rows
        tensors = {name: rows.stacked(name).contiguous() for name in Batch._fields}
        tensors["next"] = torch.tensor(work.next, dtype=torch.int64)
        with whole_file(self.path) as scratch:
            save_file(tensors, scratch, {"format": _FORMAT, "of": _fingerprint(work)})

    def restore(self, work: Attribution) -> None:
        """Take up what is there, if there is something. Raises `ValueError` where it is of another question."""
        if not self.path.exists():
            return
        try:
            with safe_open(self.path, "pt") as file:
                about = file.metadata() or {}
                if about.get("format") != _FORMAT or about.get("of") != _fingerprint(work):
                    raise ValueError(
                        f"{self.path} holds the work on another prompt, model or question: name another checkpoint=, "
                        "or delete it."
                    )
                found = {name: file.get_tensor(name) for name in (*Batch._fields, "next")}
        except SafetensorError as error:
            raise ValueError(f"{self.path} is no checkpoint of an attribution: {error}") from None
        work.next = found.pop("next").tolist()
        work.rows.batches[:] = [Batch(**found)]

    def remove(self) -> None:
        """Nothing is left when the work is done."""
        self.path.unlink(missing_ok=True)


def _fingerprint(work: Attribution) -> str:
    """What the rows depend on: the question, what is active and how much, and what dictionaries miss."""
    said = {"provenance": work.provenance, "tokens": work.replacement.tokens[0].tolist(), "width": work.rows.width}
    digest = hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode())
    for each in work.active:
        digest.update(each.features.cpu().numpy().tobytes())
        digest.update(each.activations.detach().cpu().float().numpy().tobytes())
    for missed in work.put.missed.values():
        digest.update(missed.detach().cpu().float().numpy().tobytes())
    return digest.hexdigest()
