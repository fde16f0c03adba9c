"""Controls: what a lens reads and does on one prompt, beside all that should read and do less."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from lenskit.lenses.acting.random_blocks import random_blocks
from lenskit.lenses.jacobian import JacobianLens
from lenskit.lenses.lens import LogitLens
from lenskit.lenses.lens_directions import layers_of
from lenskit.models.batch import Prompt
from lenskit.models.corpus import Texts
from lenskit.models.files.demo_texts import demo_texts
from lenskit.models.running.which import Which
from lenskit.models.sites import Site
from lenskit.models.steering import Swap

if TYPE_CHECKING:
    import pandas as pd

    from lenskit.lenses.lens import Lens
    from lenskit.models.edits import Edit

_LENGTH, _SKIP = 64, 16


@dataclass(frozen=True)
class Control:
    """One lens, or one placebo, on the prompt.

    Attributes:
        name: what it is.
        ranks: by layer, the rank of the answer at the prompt's end in its reading; empty for a placebo.
        gain: by how much its swap moves the other answer past the first, in nats.
        overtook: whether the other answer then is the likelier of the two.
        became: whether it is the likeliest of all.
    """

    name: str
    ranks: Mapping[int, int]
    gain: float
    overtook: bool
    became: bool

    @property
    def best(self) -> int | None:
        """The best rank over the layers."""
        return min(self.ranks.values(), default=None)


@dataclass(frozen=True)
class Controls:
    """A lens and its controls on one prompt. Print it.

    Attributes:
        prompt: in words.
        answer, other: the two answers.
        layers: those of the readings and of the swap.
        rows: the lens first.
        provenance: of the model.
    """

    prompt: str
    answer: str
    other: str
    layers: list[int]
    rows: tuple[Control, ...]
    provenance: Mapping[str, Any] = field(repr=False)

    def __getitem__(self, name: str) -> Control:
        found = next((row for row in self.rows if row.name == name), None)
        if found is None:
            raise KeyError(f"{name!r} is not among {', '.join(repr(row.name) for row in self.rows)}.")
        return found

    @property
    def placebos(self) -> list[Control]:
        """The swaps along directions turned at random."""
        return [row for row in self.rows if row.name.startswith("placebo")]

    def to_pandas(self) -> pd.DataFrame:
        """One row for each control, with its rank in every layer."""
        import pandas as pd

        return pd.DataFrame(
            [
                {"name": row.name, "gain": row.gain, "overtook": row.overtook, "became": row.became, "best": row.best}
                | {f"rank_{layer}": row.ranks.get(layer) for layer in self.layers}
                for row in self.rows
            ]
        )

    def __repr__(self) -> str:
        lines = [f"Controls on {self.prompt}: {self.answer!r} against {self.other!r}, layers {self.layers}"]
        for row in self.rows:
            reads = f"best rank of {self.answer!r} {row.best:,}" if row.best is not None else "reads nothing"
            said = "now the answer" if row.became else "overtakes" if row.overtook else "stays behind"
            lines.append(f"  {row.name:<16} {reads:<34} swap gains {row.gain:+.2f} nats, {self.other!r} {said}")
        return "\n".join(lines)


def controls(
    lens: Lens,
    prompt: Prompt,
    source: str | int,
    target: str | int,
    *,
    answers: tuple[str | int, str | int],
    layers: Which = None,
    pos: Which = None,
    others: Sequence[Lens] | Mapping[str, Lens] = (),
    placebos: int = 4,
    passages: int = 1,
    texts: Texts | None = None,
    seed: int = 0,
) -> Controls:
    """Read a prompt through a lens and swap two words with it; then the same with all that should do less.

    The controls are: the logit lens; other lenses, such as a tuned one or one of another model; a Jacobian lens of the
    same model with random blocks, which knows only the unembedding; and placebos, the lens's own swap along directions
    turned at random.

    Args:
        lens: the lens in question.
        prompt: one prompt.
        source, target: the words to swap, as in `Swap`.
        answers: what the model says, and what it would say if the words were exchanged.
        layers: of the readings and of the swap; by default all that the lens has.
        pos: where to swap; by default from the source's first place in the prompt on.
        others: more lenses of the same model.
        placebos: how many.
        passages: on how many passages of 64 tokens the lens of random blocks is fitted; 0 for none. A fit takes its
            time, most of it for the lowest layer.
        texts: those passages; by default some that come with lenskit.
        seed: of the placebos and the random blocks.

    Raises `ValueError` for several prompts, and what `Swap`, `lens_directions` and `JacobianLens.fit` raise.

    >>> controls(lens, "The capital of France is", " France", " Germany", answers=(" Paris", " Berlin"),
    ...          layers=range(12, 24), others=[tuned])  # doctest: +SKIP
    """
    model = lens.model
    batch = model.batch(prompt)
    if len(batch.tokens) != 1:
        raise ValueError(f"controls are for one prompt, and these are {len(batch.tokens)}.")
    ids = batch.tokens[0].tolist()
    chosen = layers_of(lens, layers)
    asked = (model.text.token(answers[0]), model.text.token(answers[1]))
    where = slice(max(1, model.text.position(ids, source, "first")), None) if pos is None else pos
    lenses = {f"{lens.name} lens": lens, **_named(others)}
    lenses.setdefault("logit lens", LogitLens(model))
    if passages:
        lenses["random blocks"] = _of_random_blocks(lens, chosen, passages, texts, seed)
    clean = model.run(batch.tokens, keep=[Site("resid_post", layer) for layer in chosen])
    before = clean.logits[0, -1].log_softmax(-1)

    def row(name: str, edit: Edit, ranks: Mapping[int, int]) -> Control:
        after = model.run(batch.tokens, edits=edit).logits[0, -1].log_softmax(-1)
        first, second = asked
        gain = (after[second] - after[first]) - (before[second] - before[first])
        return Control(name, ranks, float(gain), bool(after[second] > after[first]), int(after.argmax()) == second)

    rows = list[Control]()
    for name, each in lenses.items():
        ranks = dict[int, int]()
        for layer in chosen:
            site = Site("resid_post", layer)
            with torch.no_grad():
                said = model.unembed(each.transport(clean[site][0, -1], site))
            ranks[layer] = int((said > said[asked[0]]).sum())
        rows.append(row(name, Swap(each, source, target, layers=chosen, pos=where), ranks))  # pyright: ignore
    swap = Swap(lens, source, target, layers=chosen, pos=where)  # pyright: ignore[reportArgumentType] -- has directions
    rows += [row(f"placebo {n}", swap.placebo(seed + n), {}) for n in range(placebos)]
    pieces = [piece if isinstance(piece, str) else repr(piece) for piece in model.text.pieces(asked)]
    shown = repr(prompt) if isinstance(prompt, str) else f"{len(ids)} tokens"
    return Controls(shown, pieces[0], pieces[1], chosen, tuple(rows), model.provenance)


def _named(others: Sequence[Lens] | Mapping[str, Lens]) -> dict[str, Lens]:
    return dict(others) if isinstance(others, Mapping) else {f"{each.name} lens": each for each in others}


def _of_random_blocks(lens: Lens, layers: list[int], passages: int, texts: Texts | None, seed: int) -> JacobianLens:
    """A Jacobian lens fitted to the model with random blocks, to read and act on the model itself."""
    model = lens.model
    last = model.n_layers - 1
    below = [layer for layer in layers if layer < last]
    other = random_blocks(model, seed)
    if texts is None:
        texts = demo_texts()
    fitted = JacobianLens.fit(other, texts, passages=passages, chunk=_LENGTH, skip_first=_SKIP, layers=below)
    return JacobianLens(model, {layer: fitted.matrix(layer) for layer in below})
