"""What reading a lens costs, over the least that it could cost."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

import lenskit as lk
from bench.interleaved import Ratio, ratio
from lenskit.lenses.lens import Lens
from lenskit.lenses.live import LiveReading
from lenskit.lenses.reading import read, rows_of
from lenskit.row_products import row_products

PROMPT = (
    "It is a truth universally acknowledged, that a single man in possession of a good fortune, must be in want of a "
    "wife. However little known the feelings or views of such a man may be on his first entering"
)


def prompt_of(model: lk.Model, length: int) -> list[int]:
    """The first `length` tokens of a text, repeated where it is too short."""
    ids = model.text.ids(PROMPT)
    return (ids * (length // len(ids) + 1))[:length]


def read_over_the_bare_product(model: lk.Model) -> Ratio:
    """(a) `lens.read` with every statistic and the top 10, over a forward and one product of the same size."""
    return a_read(lk.LogitLens(model), "(a) lens.read over forward + bare product", bound=1.2)


def a_read(lens: Lens, name: str, bound: float) -> Ratio:
    """A read of 32 tokens over a forward and one `torch.mm` of the same size.

    By hand: the forward, and that product by the quicker library, block by block and with nothing looked at: what no
    reading can do without.
    """
    model = lens.model
    ids = torch.tensor([prompt_of(model, 32)])
    head = model.hf_model.get_output_embeddings().weight.detach()
    rows = torch.randn(len(rows_of(lens)) * 32, head.shape[1])
    product = torch.empty(len(rows), len(head))

    def bare() -> None:
        with torch.no_grad():
            model.hf_model(input_ids=ids)
            torch.mm(rows, head.T, out=product)

    def by_hand() -> None:
        with torch.no_grad():
            model.hf_model(input_ids=ids)
            for block in head.split(2048):
                row_products(rows, block)

    return ratio(name, lambda: read(lens, ids), bare, bound=bound, pairs=9, by_hand=by_hand)


def run_over_the_forward(model: lk.Model) -> Ratio:
    """(b) on the demo model: `run(keep="resid_post")` over the plain forward."""
    ids = torch.tensor([prompt_of(model, 32)])
    return _kept(model, ids, "(b) run(keep='resid_post') over the forward, demo model", bound=1.03, pairs=31, repeat=1)


def run_over_the_forward_of_a_small_model() -> Ratio:
    """(b) on 12 layers of d=64, where every microsecond of bookkeeping shows."""
    config = AutoConfig.for_model("gpt2", n_embd=64, n_layer=12, n_head=4, vocab_size=1000, n_positions=128)
    model = lk.Model(AutoModelForCausalLM.from_config(config).eval())
    ids = torch.randint(1000, (1, 8))
    return _kept(model, ids, "(b) the same, 12 layers of d=64, 8 tokens", bound=1.15, pairs=41, repeat=10)


def _kept(model: lk.Model, ids: torch.Tensor, name: str, **how: Any) -> Ratio:
    def plain() -> None:
        with torch.no_grad():
            model.hf_model(input_ids=ids)

    return ratio(name, lambda: model.run(ids, keep="resid_post"), plain, **how)


def one_more_token_over_a_full_read(model: lk.Model) -> Ratio:
    """(c) the update after one more token at the end of 31, over a full read of 32."""
    ids = prompt_of(model, 32)
    lens = lk.LogitLens(model)
    live = LiveReading(lens)

    def update() -> None:
        live.now(ids[:-1])  # takes the last token away again: nothing runs, a column is dropped
        live.now(ids)

    return ratio("(c) one more token over a full read", update, lambda: lens.read(ids), bound=0.15, pairs=9)


def extra_memory_of_a_read() -> str:
    """(d) the peak of a read of 128 tokens over the run itself, in a process of its own (Linux)."""
    code = """
        import torch, lenskit as lk
        from bench.lens import prompt_of
        torch.set_num_threads(1)
        model = lk.load("demo")
        ids, lens = torch.tensor([prompt_of(model, 128)]), lk.LogitLens(model)
        def status(field):
            lines = open("/proc/self/status").read().splitlines()
            return int(next(line for line in lines if line.startswith(field)).split()[1]) / 1024
        lens.read(ids[:, :2])                             # the code that any read needs
        run = model.run(ids, keep="resid_post")
        open("/proc/self/clear_refs", "w").write("5")     # the peak starts anew
        before = status("VmRSS")
        lens.read(run)
        print(f"{status('VmHWM') - before:.1f}")
    """
    extra = float(in_a_process(code).split()[-1])
    return (
        f"{'ok  ' if extra <= 64 else 'OVER'} (d) peak extra memory of a read of 128 tokens: {extra:.1f} MB (bound 64)"
    )


def start_up() -> Iterator[str]:
    """(e) importing lenskit, and loading the demo model over Hugging Face's own load of the same folder."""
    times = [float(in_a_process(_IMPORT)) for _ in range(5)]
    middle = sorted(times)[2]
    yield f"{'ok  ' if middle <= 0.3 else 'OVER'} (e) import lenskit: {middle:.3f} s (bound 0.3)"
    pairs = [(float(in_a_process(_OURS)), float(in_a_process(_THEIRS))) for _ in range(3)]
    more = sorted(a - b for a, b in pairs)[1]
    ours, theirs = (sorted(column)[1] for column in zip(*pairs, strict=True))
    yield (
        f"{'ok  ' if more <= 1.5 else 'OVER'} (e) lk.load('demo') over Hugging Face's own load: {more:+.2f} s "
        f"(bound +1.5; {ours:.2f} s / {theirs:.2f} s)"
    )


_IMPORT = """
    import time; begun = time.perf_counter()
    import lenskit
    print(time.perf_counter() - begun)
"""
_OURS = """
    import time, torch, transformers; from transformers import AutoModelForCausalLM, AutoTokenizer
    import lenskit as lk; begun = time.perf_counter()
    lk.load("demo")
    print(time.perf_counter() - begun)
"""
_THEIRS = """
    import time, torch, transformers; from transformers import AutoModelForCausalLM, AutoTokenizer
    from lenskit.models.files.demo import demo_folder
    folder = str(demo_folder()); begun = time.perf_counter()
    AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), AutoTokenizer.from_pretrained(folder)
    print(time.perf_counter() - begun)
"""


def in_a_process(code: str) -> str:
    """The last line that some code prints in a Python of its own."""
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    return done.stdout.strip().splitlines()[-1]


def report() -> Iterator[object]:
    """Every figure, as it is measured."""
    torch.set_num_threads(1)
    begun = time.perf_counter()
    model = lk.load("demo")
    model.check()
    yield f"{model!r}, one thread, torch {torch.__version__}; ready after {time.perf_counter() - begun:.1f} s"
    yield read_over_the_bare_product(model)
    yield run_over_the_forward(model)
    yield run_over_the_forward_of_a_small_model()
    yield one_more_token_over_a_full_read(model)
    yield extra_memory_of_a_read()
    yield from start_up()
