"""What a tuned lens costs: to read with, to train, to fit in closed form; and how much better it then predicts.

python -m bench.tuned measures these figures alone.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

import lenskit as lk
from bench.interleaved import Ratio, ratio
from bench.lens import a_read, in_a_process, prompt_of
from lenskit.artifacts import cache_dir
from lenskit.data import Chunks
from lenskit.lenses.residuals import paired, residuals
from lenskit.lenses.training.loss import head_of
from lenskit.lenses.training.recipe import Recipe
from lenskit.lenses.training.steps import Training
from lenskit.lenses.translators import Translators
from lenskit.lenses.tuned import TunedLens
from lenskit.models.corpus import chunks_of
from lenskit.models.identity import d_model_of
from scripts import austen

TOKENS = 512
LAYERS = tuple(range(0, 30, 3))
HELD_OUT = "persuasion"


def read_over_the_bare_product(model: lk.Model) -> Ratio:
    """(a) `lens.read` of 32 tokens with every statistic, over a forward and one product of the same size."""
    return a_read(TunedLens(model), "(a) tuned read over forward + bare product", bound=1.3)


def training_over_a_plain_loop(model: lk.Model) -> Ratio:
    """(b) a training step of ten layers over the same written as tuned-lens does: each layer unembedded by autograd.

    By hand: the forward, and the two products with the unembedding that no exact step can do without.
    """
    ids = torch.tensor([prompt_of(model, TOKENS)]).view(-1, 128)
    training, step = lenskit_training(model, ids, LAYERS), plain_step(model, LAYERS)
    head = model.hf_model.get_output_embeddings().weight.detach()
    rows = torch.randn(TOKENS, head.shape[1])
    product = torch.empty(len(rows), len(head))

    def bare() -> None:
        with torch.no_grad():
            model.hf_model(input_ids=ids)
            for _ in LAYERS:
                torch.mm(torch.mm(rows, head.T, out=product), head)

    return ratio(
        "(b) a training step over a plain loop's (1 / 1.4)",
        lambda: training.step(0),
        lambda: step(ids),
        bound=round(1 / 1.4, 3),
        pairs=5,
        by_hand=bare,
    )


def lenskit_training(model: lk.Model, ids: Tensor, layers: tuple[int, ...]) -> Training:
    """A training of lenskit's that is ready to take steps."""
    recipe = Recipe(
        layers=layers,
        loss="kl",
        optimizer="adam",
        lr=1e-3,
        warmup=0,
        weight_decay=0.0,
        token_shift=0,
        bias_only=False,
        steps=1,
        tokens_per_step=ids.numel(),
        accumulate=1,
        chunk=ids.shape[1],
        clip=1.0,
        skip_first=1,
        seed=0,
    )
    training = Training(model, Chunks(ids), recipe, lambda: Translators.identity(len(layers), d_model_of(model)))
    training.set_up(training.begun())
    return training


def plain_step(model: lk.Model, layers: tuple[int, ...]) -> Callable[[Tensor], None]:
    """One step of training as tuned-lens 0.2.0 takes it, with its frozen copy of the unembedding; in float32."""
    d_model = d_model_of(model)
    translators = [torch.nn.Linear(d_model, d_model) for _ in layers]
    norm, head = (
        copy.deepcopy(each).requires_grad_(False) for each in (model.hf_model.model.norm, model.hf_model.lm_head)
    )
    optimizer = torch.optim.AdamW([p for each in translators for p in each.parameters()], 1e-3, fused=True)

    def step(ids: Tensor) -> None:
        with torch.no_grad():
            output = model.hf_model(ids, output_hidden_states=True)
            labels = output.logits.float().log_softmax(-1)
        for translator, layer in zip(translators, layers, strict=True):
            h = output.hidden_states[layer]
            log_q = head(norm(h + translator(h))).float().log_softmax(-1)
            loss = (labels.exp() * (labels - log_q)).sum(-1).mean()
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def memory_of_training() -> str:
    """(c) the peak of a training of all layers over the loaded model, and the plain loop's, each in its own process."""
    ours, plain = (float(in_a_process(_MEMORY.replace("STEP", step))) for step in (_OURS, _PLAIN))
    mark = "ok  " if ours <= 0.5 * plain else "OVER"
    return (
        f"{mark} (c) peak memory of training 30 layers, {TOKENS} tokens a step, above the loaded model: "
        f"{ours / plain:.3f} of a plain loop's (bound 0.5; {ours:.0f} MB / {plain:.0f} MB)"
    )


_MEMORY = """
    import torch, lenskit as lk
    from bench.lens import prompt_of
    from bench.tuned import TOKENS, lenskit_training, plain_step
    def status(name):
        lines = open("/proc/self/status").read().splitlines()
        return next(float(line.split()[1]) / 1024 for line in lines if line.startswith(name))
    torch.set_num_threads(1)
    model = lk.load("demo")
    ids = torch.tensor([prompt_of(model, TOKENS)]).view(-1, 128)
    model.run(ids[:, :8], keep="resid_pre")
    before = status("VmRSS")
    STEP
    print(status("VmHWM") - before)
"""
_OURS = "training = lenskit_training(model, ids, tuple(range(30))); training.step(0); training.step(0)"
_PLAIN = "step = plain_step(model, tuple(range(30))); step(ids); step(ids)"


def closed_form_and_demo(model: lk.Model, novels: Path) -> Iterator[str]:
    """(d) the closed form from 20,480 tokens: how long it takes, and what it gains on a novel it has not seen.

    (e) what the committed lens of the demo model gains on that novel, of which it has not seen a word either.
    """
    seen = [path.read_text() for path in sorted(novels.glob("*.txt")) if path.stem != HELD_OUT]
    begun = time.perf_counter()
    fit = TunedLens.fit(model, seen, tokens=20_480)
    took = time.perf_counter() - begun
    yield f"{'ok  ' if took < 180 else 'OVER'} (d) closed form from 20,480 tokens: {took:.0f} s (bound 180)"
    ids = chunks_of(model, (novels / f"{HELD_OUT}.txt").read_text(), 128, 2048).ids
    logit, first, demo = divergences(model, ids, [TunedLens(model), fit, TunedLens.load(model, "demo")])
    for name, each, least in (("closed form", first, 0.85), ("demo lens", demo, 0.91)):
        lowered = 1 - each[5:26].mean() / logit[5:26].mean()
        everywhere = bool((each < logit).all())
        mark = "ok  " if lowered >= least and everywhere else "UNDER"
        per_layer = ", ".join(f"{layer}: {float(each[layer]):.2f}" for layer in (0, 5, 10, 15, 20, 25, 29))
        where = "lower at every layer" if everywhere else "NOT lower at every layer"
        yield (
            f"{mark} forward KL on {HELD_OUT}, layers 5 to 25, lowered by {float(lowered):.1%} with the {name} "
            f"(bound {least:.0%}); {where}; by layer {per_layer}"
        )


def divergences(model: lk.Model, ids: Tensor, lenses: list[TunedLens]) -> list[Tensor]:
    """(layer,) mean forward KL of each lens over chunks (chunk, pos), without their first positions."""
    head = head_of(model.anatomy.tail)
    sums, count = [torch.zeros(model.n_layers) for _ in lenses], 0
    for chunk in ids.split(2):
        states, final = residuals(model, chunk, range(model.n_layers))
        rows, target = paired(states, final, 0, 1)
        with torch.no_grad():
            towards = head.to_prediction(target)
            for total, lens in zip(sums, lenses, strict=True):
                for layer, h in enumerate(rows):
                    total[layer] += towards(lens.transport(h, ("resid_pre", layer)))[0].sum()
        count += len(target)
    return [total / count for total in sums]


def report(model: lk.Model) -> Iterator[object]:
    """Every figure, as it is measured. The novels are fetched once, through apt-get."""
    yield read_over_the_bare_product(model)
    yield training_over_a_plain_loop(model)
    yield memory_of_training()
    novels = cache_dir() / "texts" / "austen"
    if not (novels / f"{HELD_OUT}.txt").is_file():
        austen.main(novels)
    yield from closed_form_and_demo(model, novels)


if __name__ == "__main__":
    torch.set_num_threads(1)
    for line in report(lk.load("demo")):
        print(line, flush=True)
