"""`make bench`: measure what is promised, each figure beside what it is compared with, all in one run."""

import torch

import lenskit as lk
from bench import lens, model, paint

torch.set_num_threads(1)
for lines in (model.report(lk.load("demo")), lens.report(), paint.report()):
    for line in lines:
        print(line, flush=True)
