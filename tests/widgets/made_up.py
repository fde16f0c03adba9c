"""A made-up model for the front-end's tests: it answers `read` messages as WIRE.md says, from numpy alone."""

import base64
import re
import zlib
from dataclasses import dataclass, field, replace

import numpy as np

Piece = str | list[int]

COMMON = "the of to and a in is was her for it oven fridge hours bake cake until plan Paris Mary John store drink"
RARE = "dishwasher automatically tomorrow capital France cool waited put"
WORDS = [*(f" {word}" for word in f"{COMMON} {RARE}".split()), ",", ".", "\n", "  ", " (", " -", "'s"]

ARRAYS = ("ids", "top_ids", "top_probs", "entropy", "kl", "target_ids", "target_log_prob", "target_rank")


@dataclass
class MadeUp:
    """Answers like a lens of `layers` layers: undecided below, settling on the last layer's token above."""

    layers: int = 30
    k: int = 10
    vocab: int = 49152
    extra: tuple[Piece, ...] = ()
    words: list[Piece] = field(default_factory=lambda: list(WORDS))
    _ids: dict[str, int] = field(default_factory=dict)
    _pieces: list[Piece] = field(default_factory=list)
    _choices: int = 0
    _sent: set[int] = field(default_factory=set)
    _tokens: list[int] = field(default_factory=list)
    _number: int = 0
    _target: int | None = None

    def __post_init__(self) -> None:
        for piece in [*self.extra, *self.words]:
            self.token_id(piece)
        self._choices = len(self._pieces)

    def facts(self, **changes: object) -> dict:
        facts = {
            "v": 1, "live": True, "title": "Lens table", "model": "Made-up-135M (4-bit)", "lenses": ["logit"],
            "sites": {"logit": "resid_post"}, "layers": self.layers, "vocab": self.vocab, "context": 8192,
            "dtype": "float32", "device": "cpu",
            "ends": [], "words": True,
        }  # fmt: skip
        return facts | changes

    def spec(self, prompt: str, **changes: object) -> dict:
        spec = {
            "v": 1, "prompt": prompt, "lens": "logit", "statistic": "probability", "target": None,
            "order": "last-first", "selection": None, "scale": None, "versus": None, "second": None, "other": None,
            "view": "one", "difference": "js", "to": None, "cells": "tokens", "written": [], "act": None,
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

    def column(
        self, tokens: list[int], target: int | None, lens: str = "logit", layers: int | None = None
    ) -> dict[str, np.ndarray]:
        """What the lens reads after `tokens`: depends on nothing else, as in a causal model."""
        if layers is not None and layers != self.layers:
            return replace(self, layers=layers)._adopt(self).column(tokens, target, lens)
        rng = np.random.default_rng(zlib.crc32((repr(tokens) + lens.removeprefix("logit")).encode()))
        choices = self._choices
        final = int(rng.integers(choices))
        arrives = int(rng.integers(self.layers // 2, self.layers + 1))
        top_ids = np.zeros((self.layers, self.k), np.uint16)
        top_probs = np.zeros((self.layers, self.k), np.float32)
        runs = np.repeat(rng.integers(choices, size=self.layers // 3 + 1), 3)[: self.layers]
        for row in range(self.layers):
            others = rng.permutation(choices)
            first = final if row >= arrives or row == self.layers - 1 else int(runs[row])
            sure = np.clip(0.15 + 0.75 * rng.beta(1.3, 1.6) * (0.4 + 0.6 * row / self.layers), 0.05, 0.98)
            top_ids[row] = [first, *[o for o in others if o != first][: self.k - 1]]
            tail = np.sort(rng.dirichlet(np.ones(self.k - 1)))[::-1] * (1 - sure) * 0.7
            top_probs[row] = [sure, *np.minimum(tail, sure)]
        sure = top_probs[:, 0]
        entropy = (-sure * np.log(sure) + (1 - sure) * 7).astype(np.float32)
        depth = np.arange(self.layers) / max(1, self.layers - 1)
        kl = (14 * (1 - depth) ** 1.3 * rng.uniform(0.7, 1.1)).astype(np.float32)
        goal = final if target is None else target
        held = top_ids == goal
        prob = np.where(held.any(1), (top_probs * held).sum(1), 10.0 ** rng.uniform(-6, -4, self.layers))
        rank = np.where(held.any(1), held.argmax(1), rng.integers(self.k, self.vocab, self.layers))
        return {
            "ids": np.array(tokens[-1], np.int32), "top_ids": top_ids, "top_probs": top_probs, "entropy": entropy,
            "kl": kl, "target_ids": np.array(goal, np.int32), "target_log_prob": np.log(prob).astype(np.float32),
            "target_rank": rank.astype(np.int32),
        }  # fmt: skip

    def _adopt(self, other: "MadeUp") -> "MadeUp":
        """Know the same tokens as another."""
        self._ids, self._pieces, self._choices = other._ids, other._pieces, other._choices
        return self

    def whole_side(self, prompt: str, target: int | None, lens: str, layers: int) -> tuple[dict, dict]:
        """One side of a comparison, all of it, at `resid_pre`: its fields and its arrays."""
        tokens = self.tokenize(prompt)
        columns = [self.column(tokens[: i + 1], target, lens, layers) for i in range(len(tokens))]
        arrays = {name: np.stack([column[name] for column in columns]) for name in ARRAYS}
        self._number += 1
        fields = {
            "table": self._number, "base": None, "start": 0, "positions": len(tokens), "site": "resid_pre",
            "layers": list(range(layers)), "k": self.k, "pieces": [[i, p] for i, p in enumerate(self._pieces)],
            "arrays": entries(arrays),
        }  # fmt: skip
        return fields, arrays

    def compared(self, request: dict) -> tuple[dict, list[bytes]]:
        """The `table` message for a `read` of two sides: two lenses at `resid_pre`, or two prompts."""
        lens, target = request["lens"], request["target"]
        prompt, other = request["prompt"], request["other"] if request["other"] is not None else request["prompt"]
        first, a = self.whole_side(prompt, target, lens, self.layers + 1)
        second, b = self.whole_side(other, target, request["second"] or lens, self.layers + 1)
        change = b["top_probs"][..., 0] - a["top_probs"][..., 0]
        between = {
            "kl": 3 * np.abs(change), "js": np.abs(change) * np.float32(np.log(2)), "total_variation": np.abs(change),
            "largest_change": change, "changed_ids": b["top_ids"][..., 0].astype(np.int32),
        }  # fmt: skip
        pieces = [[i, p] for i, p in enumerate(self._pieces)]
        asked = {name: request[name] for name in ("id", "prompt", "lens", "target", "versus", "second", "other")}
        message = {
            "v": 1, "kind": "table", **asked, **first, "written": [], "words": False, "beside": second,
            "between": {"pieces": pieces, "arrays": entries(between)}, "ms": 84.2, "recomputed": 0,
        }  # fmt: skip
        return message, [x.tobytes() for part in (a, b, between) for x in part.values()]

    def reply(self, request: dict) -> tuple[dict, list[bytes]]:
        """The `table` message for a `read`, a suffix where the view has what comes before."""
        if request.get("second") is not None or request.get("other") is not None:
            return self.compared(request)
        written = request.get("written", [])
        tokens = [*self.tokenize(request["prompt"]), *written]
        target = request["target"]
        same = 0
        if request["have"] == self._number and self._number and target == self._target:
            pairs = zip(tokens, self._tokens, strict=False)
            same = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(tokens), len(self._tokens)))
        base = self._number if request["have"] == self._number and self._number else None
        if base is None:
            self._sent = set()
        columns = [self.column(tokens[: i + 1], target) for i in range(len(tokens))]
        arrays = {name: np.stack([column[name] for column in columns])[same:] for name in ARRAYS}
        new = {int(i) for name in ("ids", "top_ids", "target_ids") for i in np.unique(arrays[name])} - self._sent
        self._sent |= new
        self._number, self._tokens, self._target = self._number + 1, tokens, target
        message = {
            "v": 1, "kind": "table", "id": request["id"], "table": self._number, "base": base, "start": same,
            "positions": len(tokens), "prompt": request["prompt"], "target": target,
            "lens": request.get("lens", "logit"), "versus": None, "second": None, "other": None, "beside": None,
            "written": written, "words": request.get("words", False),
            "between": None, "site": "resid_post",
            "layers": list(range(self.layers)), "k": self.k, "pieces": [[i, self._pieces[i]] for i in sorted(new)],
            "ms": 84.2, "recomputed": len(tokens) - same,
            "arrays": entries(arrays),
        }  # fmt: skip
        return message, [a.tobytes() for a in arrays.values()]

    def forget(self) -> None:
        """Start a new chain of tables: nothing has been sent."""
        self._number, self._tokens, self._sent, self._target = 0, [], set(), None


def entries(arrays: dict[str, np.ndarray]) -> list[dict]:
    return [{"name": n, "dtype": str(a.dtype), "shape": list(a.shape)} for n, a in arrays.items()]


def in_base64(buffers: list[bytes]) -> list[str]:
    return [base64.b64encode(buffer).decode("ascii") for buffer in buffers]
