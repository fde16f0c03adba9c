"""`make bench`: measure what is promised, each figure beside what it is compared with, all in one run."""

from bench import lens, paint

for line in (*lens.report(), *paint.report()):
    print(line, flush=True)
