"""LiveActing: steer, swap or ablate along a lens's directions, and see at once what the model then writes."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from lenskit.lenses.lens import Lens
from lenskit.lenses.lens_directions import lens_directions, state_norms
from lenskit.models.directions_by_layer import DirectionsByLayer
from lenskit.models.edits import Call, Edit
from lenskit.models.generate import Generation
from lenskit.models.model import Model
from lenskit.models.steering import Ablate, Steer, Swap
from lenskit.models.steps import in_steps

_SHOWN = 6
SIDES = ("before", "after", "placebo")
"""What is written: without the edit, with it, and with the same along directions turned at random."""


@dataclass(frozen=True)
class Act:
    """What is done.

    Attributes:
        how: `steer`, `swap` or `ablate`.
        token: the token along whose direction.
        other: the token that it is swapped with; for `swap` only.
        strength: as of the edit.
        layers: the first and the last layer.
        pos: from which position on; the first position of a text is never acted on.
        seed: of the placebo.
    """

    how: str
    token: int
    other: int | None = None
    strength: float = 1.0
    layers: tuple[int, int] = (0, 0)
    pos: int = 0
    seed: int = 0


@dataclass(frozen=True)
class Acted:
    """What came of it.

    Attributes:
        edit: the edit.
        written: by side (`SIDES`), the tokens that the model wrote so far.
        odds: by side, (vocab,) the probabilities of the first of them.
        whole: whether all is written.
    """

    edit: Edit
    written: dict[str, list[int]]
    odds: dict[str, Tensor] = field(repr=False)
    whole: bool = False

    def next_ids(self) -> list[int]:
        """The tokens that are likeliest next, before and after, those of the edit first."""
        sides = [side for side in ("after", "before") if side in self.odds]
        return list(dict.fromkeys(i for side in sides for i in self.odds[side].topk(_SHOWN).indices.tolist()))


class LiveActing:
    """The live source of acting in a lens table: it holds directions, and what the model writes by itself.

    >>> act = Act("swap", token=4649, other=9197, layers=(12, 23), pos=3)  # doctest: +SKIP
    >>> finish(LiveActing(model).act(lens, ids, act, 8)).written           # doctest: +SKIP
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self._directions: dict[tuple[Lens, tuple[int, ...], bool], DirectionsByLayer] = {}
        self._norms: dict[tuple[int, ...], dict[int, float]] = {}
        self._clean: tuple[object, list[int], Tensor] | None = None

    def act(self, lens: Lens, ids: Sequence[int], act: Act, count: int) -> Generator[Acted | None, None, Acted]:
        """Write `count` tokens after a prompt without the edit, with it, and with a placebo.

        Yields None before every block of the model, and what there is whenever a token is written. Raises what the
        edits and `model.generate` raise: `ValueError` for layers that the lens does not read.
        """
        edit = yield from self._edit(lens, act)
        placebo = edit.placebo(act.seed)
        written: dict[str, list[int]] = {}
        odds: dict[str, Tensor] = {}
        now: tuple[object, ...] = (tuple(ids), count, self.model.edits)
        for side, edits in zip(SIDES, ([], [edit], [placebo]), strict=True):
            if side == "before" and self._clean is not None and self._clean[0] == now:
                written[side], odds[side] = self._clean[1:]
                continue
            written[side] = []
            steps = in_steps(self._writing(ids, edits, count, written[side], odds, side), self.model.anatomy.blocks)
            told = 0
            for _ in steps:
                yield Acted(edit, dict(written), dict(odds)) if len(written[side]) > told else None
                told = len(written[side])
            yield Acted(edit, dict(written), dict(odds))  # the last token is not followed by a block
            if side == "before":
                self._clean = (now, written[side], odds[side])
        return Acted(edit, written, odds, whole=True)

    def _writing(
        self, ids: Sequence[int], edits: Sequence[Edit], count: int, into: list[int], odds: dict[str, Tensor], side: str
    ) -> Callable[[], Generation]:
        def look(logits: Tensor) -> Tensor:
            odds[side] = logits[0, -1].float().softmax(-1)
            return logits

        def write() -> Generation:
            looking = Call("logits", look, steps=0)
            return self.model.generate(list(ids), count, edits=[*edits, looking], on_token=into.extend)

        return write

    def _edit(self, lens: Lens, act: Act) -> Generator[None, None, Steer | Swap | Ablate]:
        """The edit, of directions that are made once for each lens and word."""
        words = (act.token,) if act.other is None else (act.token, act.other)
        key = (lens, words, act.how == "steer")
        if key not in self._directions:
            made = lens_directions(lens, words)
            if act.how == "steer":
                made = yield from self._as_long_as_states(made)
            self._directions[key] = made
        first, last = act.layers
        band = [layer for layer in self._directions[key].layers if first <= layer <= last]
        if not band:
            there = self._directions[key].layers
            raise ValueError(
                f"the {lens.name} lens reads layers {there[0]} to {there[-1]}, and none of {first} to {last}: choose "
                "other layers."
            )
        where = {"layers": band, "pos": slice(max(1, act.pos), None), "strength": act.strength}
        kind = {"steer": Steer, "swap": Swap, "ablate": Ablate}[act.how]
        return kind(self._directions[key], **where)

    def _as_long_as_states(self, made: DirectionsByLayer) -> Generator[None, None, DirectionsByLayer]:
        """The directions as long as states are on average, which is measured once."""
        layers = tuple(made.layers)
        if layers not in self._norms:
            blocks = self.model.anatomy.blocks
            norms = yield from in_steps(lambda: state_norms(self.model, layers), blocks)
            self._norms[layers] = norms["mean"]
        sizes = self._norms[layers]
        units = {n: torch.nn.functional.normalize(v, dim=-1) for n, v in made.vectors.items()}
        return replace(made, vectors={n: v * sizes[n] for n, v in units.items()}, scale="mean")


def as_python(model: Model, prompt: str, written: Sequence[int], act: Act, count: int) -> str:
    """The line of Python that does it again; `lens` is the lens."""
    text = repr(prompt) if not written else repr([*model.batch(prompt).tokens[0].tolist(), *written])
    words = [repr(_word(model, token)) for token in (act.token, act.other) if token is not None]
    first, last = act.layers
    parts = [*words, f"layers=range({first}, {last + 1})", *([f"pos=slice({act.pos}, None)"] if act.pos > 1 else [])]
    parts += [f"strength={act.strength:g}"] if act.strength != 1 else []
    return f"model.generate({text}, {count}, edits=[lk.{act.how.capitalize()}(lens, {', '.join(parts)})]).text"


def _word(model: Model, token: int) -> str | int:
    """The token's text where that stands for just this token, else its id."""
    (piece,) = model.text.pieces([token])
    try:
        return piece if isinstance(piece, str) and model.text.token(piece) == token else token
    except (TypeError, ValueError):  # no text of its own: its id is as good
        return token
