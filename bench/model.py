"""What looking into a model costs, over the plain Hugging Face forward."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import torch
from greenlet import getcurrent, greenlet
from transformers import AutoConfig, AutoModelForCausalLM

import lenskit as lk
from bench.interleaved import Ratio, ratio
from bench.lens import in_a_process, prompt_of

RESIDUALS = ["resid_pre", "resid_mid", "resid_post"]


def small_model() -> lk.Model:
    """12 layers of d=64, where every microsecond of bookkeeping shows."""
    config = AutoConfig.for_model(
        "gpt2", n_embd=64, n_layer=12, n_head=4, vocab_size=1000, n_positions=128, bos_token_id=0, eos_token_id=0
    )
    return lk.Model(AutoModelForCausalLM.from_config(config).eval(), name="12 layers of d=64")


def every_site(model: lk.Model) -> list[str]:
    """Every site that exists in every layer."""
    return [name for name in model.sites if name != "logits"]


def of_the_small_model() -> Iterator[Ratio]:
    """Keeping, patching and tracing, 8 tokens."""
    model = small_model()
    ids = torch.randint(1000, (1, 8))
    clean = model.run(ids.flip(1), keep="resid_pre")
    patch = lk.Patch("resid_pre", clean, layers=5, pos=3)
    sites = every_site(model)
    hand = ByHand(model, ids)

    def trace() -> None:
        with model.trace(ids) as t:
            for layer in range(12):
                _ = t["resid_post", layer]

    calls: list[tuple[str, Callable[[], object], float, Callable[[], object] | None]] = [
        ("keep all residuals", lambda: model.run(ids, keep=RESIDUALS), 1.15, hand.residuals),
        (f"keep every site ({len(sites)} names)", lambda: model.run(ids, keep=sites), 1.8, None),
        ("one patch", lambda: model.run(ids, edits=patch), 1.05, lambda: hand.patched(clean["resid_pre", 5])),
        ("a trace that reads 12 sites", trace, 1.15, hand.standing_still),
    ]
    for name, call, bound, by_hand in calls:
        yield ratio(
            f"{name}, over the forward, {model.name}",
            call,
            hand.plain,
            bound=bound,
            pairs=201,
            repeat=10,
            by_hand=by_hand,
        )


class ByHand:
    """What one would write for this one GPT-2, knowing its modules, checking nothing and keeping no order."""

    def __init__(self, model: lk.Model, ids: torch.Tensor) -> None:
        self.hf, self.ids = model.hf_model, ids
        self.blocks = list(self.hf.transformer.h)

    def plain(self) -> None:
        """The forward itself."""
        with torch.no_grad():
            self.hf(input_ids=self.ids)

    def residuals(self) -> list[torch.Tensor]:
        """Copies of what enters the first block, and of the middle and the end of every block."""
        kept = list[torch.Tensor]()
        handles = [self.blocks[0].register_forward_pre_hook(lambda _, args: kept.append(args[0].clone()))]
        for block in self.blocks:
            handles += [
                block.ln_2.register_forward_pre_hook(lambda _, args: kept.append(args[0].clone())),
                block.register_forward_hook(lambda _, args, output: kept.append(output.clone())),
            ]
        self.plain()
        for handle in handles:
            handle.remove()
        return kept

    def patched(self, source: torch.Tensor) -> None:
        """The forward, with one vector of another run at the beginning of block 5."""

        def hook(_: object, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
            new = args[0].clone()
            new[:, 3] = source[:, 3]
            return (new, *args[1:])

        handle = self.blocks[5].register_forward_pre_hook(hook)
        self.plain()
        handle.remove()

    def standing_still(self) -> None:
        """The forward in a greenlet that comes back after every block."""
        forward = greenlet(self.plain)

        def pause(*_: object) -> None:
            getcurrent().parent.switch()  # pyright: ignore[reportOptionalMemberAccess] -- it has been started

        handles = [block.register_forward_hook(pause) for block in self.blocks]
        forward.switch()
        while not forward.dead:
            forward.switch()
        for handle in handles:
            handle.remove()


def of_the_demo_model(model: lk.Model) -> Iterator[Ratio]:
    """Keeping everything, 32 tokens; by hand, copying as much as that is."""
    ids = torch.tensor([prompt_of(model, 32)])
    sites = every_site(model)

    def plain() -> None:
        with torch.no_grad():
            model.hf_model(input_ids=ids)

    run = model.run(ids, keep=sites)
    kept = [run[name] for name in sites]

    def copied() -> list[torch.Tensor]:
        plain()
        return [tensor.clone() for tensor in kept]

    yield ratio(
        f"keep every site ({len(sites)} names), over the forward, demo model",
        lambda: model.run(ids, keep=sites),
        plain,
        bound=1.15,
        pairs=21,
        by_hand=copied,
    )


def wrapping() -> str:
    """What wrapping a loaded model costs, with all that is found out about it when sites are first asked for."""
    seconds, megabytes = sorted(map(_numbers, (in_a_process(_WRAP) for _ in range(3))))[1]
    mark = "ok  " if seconds <= 0.3 and megabytes <= 30 else "OVER"
    return f"{mark} wrapping the demo model and finding its sites: {seconds:.2f} s, {megabytes:.0f} MB (bounds 0.3, 30)"


def _numbers(line: str) -> tuple[float, float]:
    seconds, megabytes = line.split()
    return float(seconds), float(megabytes)


# Warm: one forward before, so that neither torch's first touch of the weights nor its threads count as wrapping.
_WRAP = """
    import time, torch, lenskit as lk
    torch.set_num_threads(1)
    hf = lk.load("demo").hf_model
    with torch.no_grad():
        hf(input_ids=torch.tensor([[1, 2, 3, 4, 5]]))
    def resident():
        lines = open("/proc/self/status").read().splitlines()
        return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024
    before, begun = resident(), time.perf_counter()
    lk.Model(hf).sites
    print(time.perf_counter() - begun, resident() - before)
"""


def report(demo: lk.Model) -> Iterator[object]:
    """Every figure, as it is measured."""
    yield from of_the_small_model()
    yield from of_the_demo_model(demo)
    yield wrapping()
    begun = time.perf_counter()
    passed = demo.check().passed
    yield f"{'ok  ' if passed else 'OVER'} model.check() on the demo model: {time.perf_counter() - begun:.1f} s"
