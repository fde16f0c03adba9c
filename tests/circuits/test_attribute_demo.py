"""The demo model's graphs: they add up, and an edge is what goes from the frozen model when its source does."""

import numpy as np
import pytest
import torch

import lenskit as lk
from lenskit.circuits.attributing.asking import attribution
from lenskit.circuits.graph import ERROR, FEATURE
from lenskit.models.sites import Site

PROMPT = "When Mary and John went to the store, John gave a drink to"


@pytest.fixture(scope="module", params=["neurons", "transcoders"])
def work(request: pytest.FixtureRequest, demo: lk.Model):
    given = lk.Transcoder.load_all("demo", demo) if request.param == "transcoders" else []
    made = attribution(demo, PROMPT, given, " Mary", versus=" John")
    for _ in made.go_on(192):
        pass
    return made


def test_every_value_is_the_sum_of_what_reaches_it(work, demo: lk.Model) -> None:
    graph = work.graph
    targets = ~np.isnan(graph.value)
    total = np.bincount(graph.target, graph.weight, len(graph)) + graph.bias + graph.rest
    assert targets.sum() == 193
    assert np.max(np.abs(total - graph.value)[targets] / np.maximum(graph.size, 1.0)[targets]) < 1e-4
    assert work.error < 1e-4  # of all that reaches a value, kept as an edge or not, which is independent of it
    logits = demo.run(PROMPT).logits[0, -1]
    mary, john = (demo.text.token(name) for name in (" Mary", " John"))
    assert graph.value[-1] == pytest.approx(float(logits[mary] - logits[john]), abs=1e-3)


def test_an_edge_is_what_goes_with_its_source(work) -> None:
    graph, replacement = work.graph, work.replacement
    whole = {site: value.detach() for site, value in replacement.put_in.items()}
    rng = np.random.default_rng(0)
    sources = [int(n) for n in rng.choice(graph.of_kind(FEATURE), 8, replace=False)]
    sources += [int(n) for n in graph.of_kind(ERROR)[-40:-36]]
    own = _values(work, graph, replacement.read)
    for number in sources:
        node = graph.nodes[number]
        put = dict(whole)
        site, gone = _given_by(work, node)
        put[site] = put[site].clone()
        put[site][0, node.pos] -= gone
        less = _values(work, graph, replacement.with_inputs(put))
        for edge in graph.out_of(number)[:10]:
            target = graph.number(edge.target)
            change = own[target] - less[target]
            assert edge.weight == pytest.approx(change, abs=1e-3 * max(1.0, graph.size[target])), edge


def _given_by(work, node) -> tuple[Site, torch.Tensor]:
    """Where a node is put in, and what it gives there."""
    by_layer = {basis.layer: basis for basis in work.bases}
    if node.kind == "error":
        site = Site("mlp_out", node.layer)
        return site, work.put.missed[node.layer][node.pos]
    basis = by_layer[node.layer]
    (site,) = basis.writes
    if basis.kind == "neurons":
        gone = torch.zeros_like(work.replacement.put_in[site][0, 0])
        gone[node.feature] = work.replacement.put_in[site][0, node.pos, node.feature].detach()
        return site, gone
    transcoder = basis.transcoder
    codes = transcoder.encode(work.replacement.read[transcoder.reads].detach())
    activation = codes.of(node.feature)[0, node.pos]
    return site, activation * transcoder.W_dec[0, node.feature]


def _values(work, graph, read) -> dict[int, float]:
    """Of each target its value, but for constants, if this is read."""
    found = {}
    by_layer = {basis.layer: basis for basis in work.bases}
    for number in np.flatnonzero(~np.isnan(graph.value)).tolist():
        node = graph.nodes[number]
        if node.kind == "logit":
            vector, site = work.targets.read.vectors[0], Site("final_norm")
        else:
            basis = by_layer[node.layer]
            made = basis.read(work.replacement, torch.tensor([node.feature]), torch.tensor([node.pos]))
            vector, site = made.vectors[0], basis.reads
        found[number] = float(read[site].detach()[0, node.pos].double() @ vector.double())
    return found
