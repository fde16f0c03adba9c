"""Shapes: what every site's tensor would look like for a prompt, found without running the model."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from lenskit.models.batch import Batch
from lenskit.models.finding.placed import is_offloaded, without_numbers
from lenskit.models.running.doors import in_order
from lenskit.models.running.passage import for_each_row
from lenskit.models.sites import LAYERED, Site, SiteLike, Sites, SiteUnavailable
from lenskit.models.taps import Point, Taker, first_tensor, tapped, watched

if TYPE_CHECKING:
    from torch._subclasses.fake_tensor import FakeTensorMode

    from lenskit.models.model import Model


_HOOKS = ("_forward_hooks", "_forward_pre_hooks")


class Shapes(Mapping[Site, torch.Size]):
    """The shapes of the sites: `shapes["z", 5]`; printed, one line for each site."""

    def __init__(self, shapes: Mapping[Site, torch.Size]) -> None:
        self._shapes = dict(shapes)

    def __getitem__(self, what: SiteLike) -> torch.Size:
        site = Site.parse(what)
        if site not in self._shapes:
            raise KeyError(f"{str(site)!r} has no shape here: say the layer too, and see model.sites.")
        return self._shapes[site]

    def __iter__(self):
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)

    def __repr__(self) -> str:
        lines = list[str]()
        for name in dict.fromkeys(site.name for site in self._shapes):
            kinds = dict.fromkeys(tuple(shape) for site, shape in self._shapes.items() if site.name == name)
            lines.append(f"  {name:<11} {' or '.join(map(str, kinds))}")
        return "\n".join(["Shapes", *lines])


def shapes_of(model: Model, batch: Batch) -> Shapes:
    """Run the model on fake tensors, which have shapes and no numbers: nothing is computed and nothing allocated.

    Of a plain module, and of a model whose weights were never loaded, they are the shapes of what its modules give, by
    their paths. Raises `SiteUnavailable` for a model whose shapes depend on its numbers, as those of some mixtures of
    experts do, and for one whose weights are brought from elsewhere while it runs.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    anatomy = model.anatomy
    if is_offloaded(anatomy.model):
        raise SiteUnavailable(
            f"the shapes in {anatomy.family} cannot be found without running it, since its weights are offloaded and "
            "come while it runs: run it to see them."
        )
    named = anatomy.is_language_model and without_numbers(anatomy.model) is None
    if named:
        _ = anatomy.layers  # finds the sites with real numbers, or raises why that cannot be done here
    # The table of the sites, too, is made outside: of what has no numbers no site can be verified.
    of = partial(_of_sites, model.sites) if named else _of_modules
    with _unchanged(anatomy.model), _quiet(), FakeTensorMode(allow_non_fake_inputs=True) as mode:
        try:
            return Shapes(of(model, batch, mode))
        except RuntimeError as error:  # among them those of data that a shape depends on
            raise SiteUnavailable(
                f"the shapes in {anatomy.family} cannot be found without its numbers ({str(error).splitlines()[0]}): "
                "run it to see them."
            ) from error


@contextmanager
def _quiet() -> Generator[None]:
    """Let torch not log at length what is told in one line of an error."""
    log = logging.getLogger("torch._subclasses.fake_tensor")
    before, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = before


@contextmanager
def _unchanged(model: nn.Module) -> Generator[None]:
    """Afterwards nothing in the model is fake: what modules stored meanwhile is forgotten. No user's hook is called."""
    before = [(module, dict(module.__dict__), dict(module._buffers)) for module in model.modules()]
    try:
        for module, own, _ in before:
            module.__dict__.update({name: OrderedDict() for name in own if name.startswith(_HOOKS)})
        yield
    finally:
        for module, own, buffers in before:
            module.__dict__.clear()
            module.__dict__.update(own)
            module._buffers.clear()
            module._buffers.update(buffers)


def _of_sites(sites: Sites, model: Model, batch: Batch, mode: FakeTensorMode) -> dict[Site, torch.Size]:
    found = dict[Site, torch.Size]()
    takes = dict[Point, list[Taker]]()

    def noting(site: Site) -> Taker:
        def take(tensor: Tensor) -> None:
            found[site] = for_each_row(site.name, tensor, len(batch.tokens)).shape

        return take

    anatomy = model.anatomy
    for name, reason in sites.reasons.items():
        for layer in anatomy.layers_of(name) if name in LAYERED else [None]:
            if name in LAYERED or reason is None:
                spot = anatomy.spot(Site(name, layer))
                takes.setdefault(spot.point, []).append(spot.taking(noting(Site(name, layer)), len(batch.tokens)))
    with tapped({point: in_order(each) for point, each in takes.items()}):
        mask = None if batch.mask is None else mode.from_tensor(batch.mask)
        model.forward(Batch(mode.from_tensor(batch.tokens), mask), use_cache=False)
    return found


def _of_modules(model: Model, batch: Batch, mode: FakeTensorMode) -> dict[Site, torch.Size]:
    """By module path, with weights that are fake as well: so a model on the meta device needs none."""
    found, inner = dict[Site, torch.Size](), model.anatomy.model
    paths = {module: path for path, module in inner.named_modules() if path}

    def end(module: nn.Module, output: object) -> None:
        if (tensor := first_tensor(output)) is not None:
            found[Site(paths[module])] = tensor.shape

    weights = chain(inner.named_parameters(), inner.named_buffers())
    fake = {name: torch.empty(weight.shape, dtype=weight.dtype) for name, weight in weights}
    given = torch.zeros(batch.tokens.shape, dtype=batch.tokens.dtype)
    with torch.no_grad(), model.anatomy.eagerly(), watched(paths, lambda *_: None, end):
        torch.func.functional_call(inner, fake, (given,))
    return found
