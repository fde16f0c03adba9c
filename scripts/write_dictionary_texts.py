"""Write what the demo model's dictionaries are trained on: passages of the model's own, and as many of Jane Austen's.

    python scripts/write_dictionary_texts.py AUSTEN OUT.jsonl

AUSTEN is the folder that scripts/austen.py writes. Persuasion and `lk.demo_texts()` are left out: the dictionaries are
judged on those. Sampling goes another way on another processor, so another machine's passages are others of the kind.
"""

import itertools
import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

import lenskit as lk
from lenskit.artifacts import whole_file

NOVELS = ("emma", "mansfield_park", "northanger_abbey", "pride_and_prejudice", "sense_and_sensibility")
PASSAGES = 480
EXCERPT = 1200  # characters of a novel

KINDS = r"""
Here is what everyone should know about {}.
Once upon a time, long before anyone had heard of {},
Question: Why does {} matter?\nAnswer:
Dear Anna, you asked me about {}. I must say that
The most important facts about {}:\n\n1.
"I never understood {}," said the old man, and
In the history of {}, the year
In this lesson we compare {} with
Last night the radio had news of {}. It said
To learn more about {}, you should first
# Python\n# A small program about {}.\n\ndef
If there were no such thing as {}, then either
""".strip().splitlines()

TOPICS = """
France; the city of Rome; Japan; the Nile; Brazil; the Roman Empire; London; the Second World War; Egypt; the far north
bread; coffee; a good soup; apples; salt; cheese; wine; the kitchen; tomatoes; sugar
dogs; whales; bees; wild horses; birds; the human heart; the brain; bacteria; trees; insects
the moon; gravity; electricity; water; light; atoms; the weather; volcanoes; stars; the sea
numbers; triangles; probability; computers; programs; the internet; languages; the alphabet; proofs; maps
music; painting; the theatre; novels; poetry; film; dancing; photography; the piano; churches
money; banks; trade; taxes; contracts; the law; elections; newspapers; schools; hospitals
marriage; friendship; jealousy; fear; memory; sleep; childhood; old age; laughter; letters
football; chess; running; swimming; bicycles; trains; ships; aeroplanes; bridges; clocks
kings; soldiers; farmers; doctors; teachers; children; daughters; brothers; neighbours; thieves
""".strip()


def passages(model: lk.Model) -> Iterator[str]:
    """What the model makes of openings of many kinds about many topics."""
    topics = [topic.strip() for line in TOPICS.splitlines() for topic in line.split(";")]
    openings = [kind.replace("\\n", "\n").format(topic) for kind, topic in itertools.product(KINDS, topics)]
    openings = random.Random(0).sample(openings, PASSAGES)
    torch.manual_seed(0)
    for begin in range(0, len(openings), 48):
        some = openings[begin : begin + 48]
        made = model.generate(some, 80, do_sample=True, temperature=0.9, top_p=0.95)
        yield from (opening + text for opening, text in zip(some, made.text, strict=True))


def excerpts(novel: str, count: int) -> Iterator[str]:
    """So many parts of a novel, at equal distances, each from a blank line on."""
    for number in range(count):
        begin = novel.find("\n\n", number * (len(novel) - 2 * EXCERPT) // count)
        yield " ".join(novel[begin : begin + EXCERPT].split("\n")).strip()


def main(austen: Path, out: Path) -> None:
    """Write them shuffled, one in each line."""
    texts: list[str] = []
    for passage in passages(lk.load("demo")):
        texts.append(passage)
        print(f"\r{len(texts)} passages of {PASSAGES}", end="", flush=True)
    share = sum(map(len, texts)) // EXCERPT // len(NOVELS)
    for name in NOVELS:
        texts += excerpts((austen / f"{name}.txt").read_text(encoding="utf-8"), share)
    random.Random(0).shuffle(texts)
    with whole_file(out) as scratch:
        scratch.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    print(f"\n{out}: {len(texts)} passages, {sum(map(len, texts)):,} characters")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
