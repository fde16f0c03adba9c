"""A change made by hand at one site, against which edits are compared."""

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

import lenskit as lk
from lenskit.models.sites import LAYERED
from tests.models.by_hand import by_hand
from tests.models.tiny import tiny

LAYER, ROWS, LENGTH = 1, 3, 6
Change = Callable[[Tensor], Tensor]


@cache
def model(family: str) -> lk.Model:
    return lk.Model(tiny(family))


def tokens(rows: int = ROWS, length: int = LENGTH, seed: int = 1) -> Tensor:
    return torch.randint(1, 131, (rows, length), generator=torch.Generator().manual_seed(seed))


def random(*shape: int, seed: int = 5) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, atol=5e-5, rtol=5e-5)


def changed_by_hand(family: str, ids: Tensor, site: str, change: Change) -> tuple[Tensor, Tensor]:
    """The logits, and what the site then held, when `change` is made to it in one layer."""
    held = list[Tensor]()

    def touch(name: str, layer: int | None, x: Tensor) -> Tensor:
        if name != site or layer not in (None, LAYER):
            return x
        held.append(change(x).contiguous())
        return held[-1]

    with torch.no_grad():
        logits = by_hand(model(family).hf_model, ids, touch)
    return logits, held[0]


def swapped(site: str, x: Tensor) -> Tensor:
    """(batch, pos, ...) for every site; its own inverse."""
    return x.transpose(1, 2) if site in ("scores", "pattern") else x


def at_places(site: str, x: Tensor, places: list[tuple[int, int]], head: int | None, change: Change) -> Tensor:
    """A copy in which each (row, position), or one head there, was changed by itself."""
    new = swapped(site, x.clone())
    for row, pos in places:
        if head is None:
            new[row, pos] = change(new[row, pos])
        else:
            new[row, pos, head] = change(new[row, pos, head])
    return swapped(site, new)


def projected(directions: Tensor, x: Tensor) -> Tensor:
    """What of x lies in the span of the directions, by least squares."""
    flat = x.reshape(-1, x.shape[-1])
    weights = torch.linalg.lstsq(directions.T, flat.T).solution
    return (directions.T @ weights).T.reshape(x.shape)


def sites(family: str) -> list[str]:
    return list(model(family).sites)


def check(family: str, site: str, edit: lk.Edit, change: Change) -> None:
    ids = tokens()
    logits, held = changed_by_hand(family, ids, site, change)
    run = model(family).run(ids, keep=(site, LAYER) if site in LAYERED else site, edits=edit)
    close(run.logits, logits)
    close(run[site, LAYER] if site in LAYERED else run[site], held)


def layer_of(site: str) -> dict[str, int]:
    return {"layers": LAYER} if site in LAYERED else {}


def edited(ids: Tensor, *edits: lk.Edit) -> Tensor:
    """The logits of the Llama with these edits given to the run."""
    return lk.Model(model("llama").hf_model).run(ids, edits=edits).logits
