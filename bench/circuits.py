"""What an attribution graph costs beyond its backward passes, and how much memory: 64 tokens, 30 x 4,096 features."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence

import torch

import lenskit as lk
from bench.interleaved import Ratio, ratio
from lenskit.circuits.attributing.asking import attribute, attribution
from lenskit.circuits.attributing.attribution_work import Attribution
from lenskit.models.sites import Site
from lenskit.transcoders.activations import TopK
from lenskit.transcoders.transcoder import Transcoder

TOKENS, FEATURES, K, TARGETS, BATCH = 64, 4096, 32, 512, 64
BOUND, MEGABYTES = 1.3, 2000


def report(demo: lk.Model) -> Iterator[Ratio | str]:
    """A whole graph from 512 targets over the eight bare batched backward passes from the same targets."""
    given, prompt = dictionaries(demo), passage(demo)
    work = attribution(demo, prompt, given, batch=BATCH)
    for _ in work.go_on(TARGETS):
        pass
    passes = bare(work)
    yield ratio(
        f"a graph of {TARGETS} features, over {len(passes)} bare batched backward passes",
        lambda: attribute(demo, prompt, given, features=TARGETS, batch=BATCH),
        lambda: [run() for run in passes],
        bound=BOUND,
        pairs=5,
    )
    yield memory()


def dictionaries(model: lk.Model) -> list[Transcoder]:
    """Random transcoders of all layers."""
    noise = torch.Generator().manual_seed(0)
    width = int(model.run([[1, 2]], keep=("mlp_in", 0))["mlp_in", 0].shape[-1])

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=noise) / shape[-1] ** 0.5

    return [
        Transcoder(
            random(FEATURES, width),
            None,
            random(FEATURES, width),
            None,
            TopK(K),
            reads=Site("mlp_in", layer),
            writes=Site("mlp_out", layer),
        )
        for layer in range(model.n_layers)
    ]


def passage(model: lk.Model) -> torch.Tensor:
    """(1, 64) tokens of the text that comes with the demo model."""
    return model.batch(lk.demo_texts()[0]).tokens[:, :TOKENS]


def bare(work: Attribution) -> list:
    """The backward passes of the batches that were made, the features' ones: nothing is done with what they give."""
    inputs = list(work.replacement.put_in.values())
    numbers: Sequence[int] = [n for n in work.rows.targets if n < work.sources.total]

    def of(batch: list[int]):
        _, _, made = work._values(batch)
        eye = torch.eye(len(made))

        def run() -> object:
            return torch.autograd.grad(
                made, inputs, grad_outputs=eye, is_grads_batched=True, retain_graph=True, allow_unused=True
            )

        return run

    return [of(list(numbers[begin : begin + BATCH])) for begin in range(0, len(numbers), BATCH)]


def memory() -> str:
    """The peak of the same graph over the loaded model and its dictionaries, in a process of its own (Linux)."""
    code = f"""
import torch
import lenskit as lk
from bench.circuits import dictionaries, passage
from lenskit.circuits.attributing.asking import attribute

def status(name):
    line = next(line for line in open("/proc/self/status") if line.startswith(name))
    return int(line.split()[1]) / 1024

torch.set_num_threads(1)
model = lk.load("demo")
given, prompt = dictionaries(model), passage(model)
model.run(prompt)
before = status("VmRSS")
open("/proc/self/clear_refs", "w").write("5")  # the peak starts anew
attribute(model, prompt, given, features={TARGETS}, batch={BATCH})
print(status("VmHWM") - before)
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    extra = float(found.stdout)
    mark = "ok  " if extra <= MEGABYTES else "OVER"
    return f"{mark} peak memory of that graph above model and dictionaries: {extra:.0f} MB (bound {MEGABYTES})"
