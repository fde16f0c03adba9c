"""`make bench`: measure what is promised, each figure beside what it is compared with, all in one run."""

import torch

import lenskit as lk
from bench import circuit_graph, circuits, features, index, jacobian, lens, model, paint, sweep, transcoder, tuned

torch.set_num_threads(1)
demo = lk.load("demo")
for lines in (
    model.report(demo),
    lens.report(),
    paint.report(),
    sweep.report(demo),
    tuned.report(demo),
    transcoder.report(),
    index.report(),
    features.report(),
    jacobian.report(demo),
    circuits.report(demo),
    circuit_graph.report(),
):
    for line in lines:
        print(line, flush=True)
