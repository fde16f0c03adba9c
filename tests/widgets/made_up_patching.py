"""A made-up model for the patch grid's tests: it answers `sweep` and `patch` as WIRE.md says, from numpy alone."""

import re
import zlib
from dataclasses import dataclass, field

import numpy as np

from tests.widgets.made_up import Piece

CLEAN = "When Mary and John went to the store, John gave a drink to"
CORRUPT = "When Mary and John went to the store, Mary gave a drink to"
NEXT = (" Mary", " John", " the", " her", " his", " James", " him", " them")
SITES = ("resid_pre", "attn_out", "mlp_out", "z")

Message = tuple[dict, list[bytes]]


@dataclass
class MadeUpPatching:
    """Its effects wander from the token that differs to the last one, as in a real model."""

    layers: int = 30
    heads: int = 9
    vocab: int = 49152
    extra: tuple[Piece, ...] = ()
    next: tuple[Piece, ...] = NEXT
    _ids: dict[str, int] = field(default_factory=dict)
    _pieces: list[Piece] = field(default_factory=list)

    def __post_init__(self) -> None:
        for piece in [*self.next, *self.extra]:
            self.token_id(piece)

    def facts(self, **changes: object) -> dict:
        facts = {
            "v": 1, "live": True, "title": "Patching", "model": "Made-up-135M (4-bit)", "layers": self.layers,
            "sites": list(SITES), "headed": ["z"], "dtype": "float32", "device": "cpu",
        }  # fmt: skip
        return facts | changes

    def spec(self, clean: str = CLEAN, corrupt: str = CORRUPT, **changes: object) -> dict:
        spec = {
            "v": 1, "clean": clean, "corrupt": corrupt, "site": "resid_pre", "direction": "denoise",
            "metric": "logit_diff", "answer": self.token_id(self.next[0]), "against": self.token_id(self.next[1]),
            "selection": None, "to": None, "tried": [], "scale": None,
        }  # fmt: skip
        return spec | changes

    def token_id(self, piece: Piece) -> int:
        key = repr(piece)
        if key not in self._ids:
            self._ids[key] = len(self._pieces)
            self._pieces.append(piece)
        return self._ids[key]

    def tokenize(self, prompt: str) -> list[int]:
        return [self.token_id(piece) for piece in re.findall(r" ?\w+|\s+(?!\w)| ?[^\w\s]+|\s", prompt)]

    def effects(self, request: dict) -> np.ndarray:
        """The share restored by each cell."""
        clean, corrupt = self.tokenize(request["clean"]), self.tokenize(request["corrupt"])
        depth = np.arange(self.layers)[:, None] / self.layers
        noise = np.random.default_rng(zlib.crc32(repr(sorted(request.items(), key=str)[:3]).encode()))
        if request["site"] == "z":
            shares = noise.normal(0, 0.012, (self.layers, self.heads))
            for share in (0.42, -0.21, 0.17, 0.09, -0.06):
                shares[noise.integers(self.layers // 2, self.layers), noise.integers(self.heads)] = share
            return shares
        shares = np.zeros((self.layers, len(clean)))
        differ = [i for i, (a, b) in enumerate(zip(clean, corrupt, strict=True)) if a != b]
        leaves = 1 / (1 + np.exp(-(depth - 0.68) * 26))
        for i in differ:
            shares[:, i] = (1.006 * (1 - leaves))[:, 0] / len(differ)
        shares[:, -1] += leaves[:, 0] * 0.97
        shares[:, -2] += (0.07 * leaves * (1 - leaves) * 4)[:, 0]
        first = min(differ, default=len(clean))
        shares[:, first + 1 :] += noise.normal(0, 0.004, (self.layers, len(clean) - first - 1))
        return shares if request["site"] == "resid_pre" else np.diff(shares, axis=0, append=shares[-1:]) * 0.9

    def header(self, request: dict) -> tuple[dict, dict[str, np.ndarray]]:
        clean, corrupt = self.tokenize(request["clean"]), self.tokenize(request["corrupt"])
        ids = [self.token_id(piece) for piece in self.next]
        odds = np.array([0.68, 0.12, 0.07, 0.04, 0.02, 0.01, 0.006, 0.002])[: len(ids)]
        swapped = odds.copy()
        swapped[:2] = 0.003, 0.75
        base, target = (-5.49, 6.12) if request["direction"] == "denoise" else (6.12, -5.49)
        question = ("clean", "corrupt", "site", "direction", "metric", "answer", "against")
        header = {
            **{key: request[key] for key in question}, "v": 1, "id": request["id"], "layers": list(range(self.layers)),
            "over": "head" if request["site"] == "z" else "pos",
            "columns": self.heads if request["site"] == "z" else len(clean), "read": len(clean) - 1, "base": base,
            "target": target, "pieces": [[i, self._pieces[i]] for i in sorted({*clean, *corrupt, *ids})],
        }  # fmt: skip
        arrays = {
            "clean_ids": np.array(clean, np.int32), "corrupt_ids": np.array(corrupt, np.int32),
            "next_ids": np.array(ids, np.int32), "next_clean": odds.astype(np.float32),
            "next_corrupt": swapped.astype(np.float32),
        }  # fmt: skip
        return header, arrays

    def values(self, request: dict) -> np.ndarray:
        base, target = (-5.49, 6.12) if request["direction"] == "denoise" else (6.12, -5.49)
        return (base + (target - base) * self.effects(request)).astype(np.float32)

    def pair(self, request: dict) -> Message:
        header, arrays = self.header(request)
        return _message({**header, "kind": "pair"}, arrays)

    def estimate(self, request: dict) -> Message:
        values, base = self.values(request).ravel(), self.pair(request)[0]["base"]
        return self.cells(request, range(values.size), exact=False, done=0, values=values * 0.93 + base * 0.07)

    def cells(self, request: dict, which, *, exact: bool = True, done: int | None = None, values=None) -> Message:
        index = np.array(list(which), np.int32)
        known = self.values(request).ravel() if values is None else values
        header = {
            "v": 1, "kind": "cells", "id": request["id"], "done": len(index) if done is None else done,
            "total": known.size, "left": 4.2,
        }  # fmt: skip
        which_are = np.full(len(index), exact, np.uint16)
        return _message(header, {"index": index, "value": known[index].astype(np.float32), "exact": which_are})

    def order(self, request: dict) -> np.ndarray:
        return np.argsort(-np.abs(self.effects(request)).ravel(), kind="stable")

    def swept(self, request: dict, done: int | None = None) -> Message:
        header, arrays = self.header(request)
        values = self.values(request)
        exact = np.ones(values.size, np.uint16)
        if done is not None:
            exact[self.order(request)[done:]] = 0
        more = {
            "kind": "swept", "done": int(exact.sum()), "total": values.size, "stopped": done is not None, "ms": 3120.4,
            "engine": "packed rows", "why": None,
        }  # fmt: skip
        return _message({**header, **more}, {**arrays, "values": values, "exact": exact})

    def sweep(self, request: dict) -> list[Message]:
        """All that comes of a request: the pair, the estimate, the cells in two portions, the end."""
        order = self.order(request)
        half = len(order) // 2
        return [
            self.pair(request),
            self.estimate(request),
            self.cells(request, order[:half], done=half),
            self.cells(request, order[half:], done=len(order)),
            self.swept(request),
        ]

    def patched(self, request: dict) -> Message:
        share = float(self.effects(request)[np.ix_(request["layers"], request["columns"])].mean())
        base, target = (-5.49, 6.12) if request["direction"] == "denoise" else (6.12, -5.49)
        ids = [self.token_id(piece) for piece in self.next]
        before = np.array([0.003, 0.75, 0.07, 0.04, 0.001, 0.006, 0.004, 0.003])[: len(ids)]
        after = np.array([0.571, 0.114, 0.117, 0.013, 0.022, 0.014, 0.01, 0.004])[: len(ids)]
        keys = ("clean", "corrupt", "site", "direction", "metric", "answer", "against", "layers", "columns")
        header = {
            **{key: request[key] for key in keys}, "v": 1, "kind": "patched", "id": request["id"],
            "value": base + (target - base) * share, "pieces": [[i, self._pieces[i]] for i in ids],
        }  # fmt: skip
        arrays = {"ids": np.array(ids, np.int32), "before": before.astype("f4"), "after": after.astype("f4")}
        return _message(header, arrays)


def _message(header: dict, arrays: dict[str, np.ndarray]) -> Message:
    entries = [{"name": n, "dtype": str(a.dtype), "shape": list(a.shape)} for n, a in arrays.items()]
    return {**header, "arrays": entries}, [a.tobytes() for a in arrays.values()]
