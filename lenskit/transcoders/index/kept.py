"""Kept: the few smallest keys of each row of a table, from offers that come in any number of parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

Arrays = dict[str, np.ndarray]


class Column(NamedTuple):
    """What is kept beside a key: numbers of one shape and kind."""

    shape: tuple[int, ...]
    kind: type[np.generic]


class Kept:
    """For each row the smallest keys that were ever offered to it, and what belongs to each.

    Which they are does not depend on how the offers were divided into parts, as long as no row is offered one key
    twice. What belongs to a key is asked for only if the key is kept, and then stays where it is: a new key takes the
    slot of one that is dropped, and only `in_order` sorts them.

    Args:
        rows, slots: how many rows there are, and how many keys each keeps.
        kind: the keys' kind, `np.uint32` or `np.uint64`. Its largest number stands for an empty slot.
        beside: what is kept beside a key, by name.
    """

    def __init__(
        self, rows: int, slots: int, kind: type[np.unsignedinteger], beside: Mapping[str, Column] | None = None
    ) -> None:
        self.slots, self.empty = slots, np.iinfo(kind).max
        self.keys = np.full((rows, slots), self.empty, kind)
        self._largest = np.full(rows, self.empty, kind)
        self.beside = {
            name: np.zeros((rows, slots, *column.shape), column.kind) for name, column in (beside or {}).items()
        }

    @property
    def filled(self) -> np.ndarray:
        """(row, slot) which slots hold a key."""
        return self.keys != self.empty

    def offer(self, rows: np.ndarray, keys: np.ndarray, beside: Callable[[np.ndarray], Arrays] | None = None) -> None:
        """Offer keys (n,) to rows (n,). `beside` is given the numbers of those that are kept, and says what they bring.

        Of two keys that are equal in their upper 32 bits, the smaller has to be offered first.
        """
        offered = np.flatnonzero(keys < self._largest[rows])
        if not len(offered):
            return
        rows, keys = rows[offered], keys[offered]
        upper = keys if keys.dtype == np.uint32 else keys >> np.uint64(32)
        order = np.argsort((rows.astype(np.uint64) << np.uint64(32)) | upper, kind="stable")
        rows, keys, offered = rows[order], keys[order], offered[order]
        begins = first_of_each(rows)
        sizes = np.diff(begins, append=len(rows))
        line, rank = np.repeat(np.arange(len(begins)), sizes), np.arange(len(rows)) - np.repeat(begins, sizes)
        some = np.flatnonzero(rank < self.slots)
        width = min(int(sizes.max()), self.slots)
        fresh, source = np.full((len(begins), width), self.empty, self.keys.dtype), np.zeros((len(begins), width), int)
        fresh[line[some], rank[some]], source[line[some], rank[some]] = keys[some], offered[some]
        self._take_in(rows[begins], fresh, source, beside)

    def _take_in(
        self, rows: np.ndarray, fresh: np.ndarray, source: np.ndarray, beside: Callable[[np.ndarray], Arrays] | None
    ) -> None:
        """Let fresh keys (line, any) of these rows take the slots of larger ones; `source` is where each comes from."""
        every = np.concatenate([self.keys[rows], fresh], 1)
        # Stable, so that an empty slot that is there goes before one that is not.
        places = np.argsort(every, axis=1, kind="stable")[:, : self.slots]
        self._largest[rows] = np.take_along_axis(every, places[:, -1:], 1)[:, 0]
        is_free = np.ones((len(rows), self.slots + fresh.shape[1]), bool)
        np.put_along_axis(is_free, places, False, 1)
        line, slot = np.nonzero(is_free[:, : self.slots])  # as many in each line as there are new ones, in order
        enters, place = np.nonzero(~is_free[:, self.slots :])
        at = rows[line], slot
        self.keys[at] = fresh[enters, place]
        if beside is not None:
            for name, brought in beside(source[enters, place]).items():
                self.beside[name][at] = brought

    def in_order(self) -> None:
        """Sort each row's keys, the smallest first, and what is beside them."""
        order = np.argsort(self.keys, axis=1, kind="stable")
        self.keys = np.take_along_axis(self.keys, order, 1)
        for name, table in self.beside.items():
            self.beside[name] = np.take_along_axis(table, order.reshape(*order.shape, *[1] * (table.ndim - 2)), 1)

    def taken_out(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, Arrays]:
        """Empty some rows, and give what was in them: the row and the key of each, and what is beside it."""
        line, slot = np.nonzero(self.keys[rows] != self.empty)
        line = rows[line]
        keys, beside = self.keys[line, slot], {name: table[line, slot] for name, table in self.beside.items()}
        self.keys[rows] = self._largest[rows] = self.empty
        return line, keys, beside

    def state(self) -> Arrays:
        """Everything, by name."""
        return {"keys": self.keys, **self.beside}

    def resume(self, state: Mapping[str, np.ndarray]) -> None:
        """Go on from what `state` gave."""
        self.keys = state["keys"].copy()
        self._largest = self.keys.max(1)
        self.beside = {name: state[name].copy() for name in self.beside}


def first_of_each(numbers: np.ndarray) -> np.ndarray:
    """Where in numbers (n,), of which equal ones stand together, each of them begins."""
    if not len(numbers):
        return np.zeros(0, np.int64)
    return np.concatenate([[0], np.flatnonzero(numbers[1:] != numbers[:-1]) + 1])
