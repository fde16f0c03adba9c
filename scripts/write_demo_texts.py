"""Let the demo model write the passages that come with it: something to fit on, offline, that is nobody's.

The stored file is the truth, not this script's next output: sampling goes another way on another processor.
"""

from pathlib import Path

import torch

import lenskit as lk

OPENINGS = """
The old lighthouse keeper had not spoken to anyone for
In the spring, farmers in the valley begin to
A triangle has three sides. If two of them are
The recipe is simple. First, take two eggs and
My grandmother used to say that every river
To find an error in a program, you should first
The king sent for his youngest daughter and told her
Scientists have found that bees can
On the night train to Vienna, a man in a grey coat
Most people believe that history is
The rules of the game are easy to learn:
Dear Anna, I am writing to you from
When the first astronauts came back, they
A good teacher knows how to
The market opens at six, when the fishermen
There are many reasons why a bridge may
Once upon a time, in a small house near the forest,
The human heart pumps blood through
After the war, the two brothers decided to
If you want to grow tomatoes on a balcony,
The library was almost empty when
Music, like language, is made of
In the year 1848, the town of
The computer reads each line and then
She opened the door and saw that the room
Water boils at a lower temperature when
The dog had been waiting at the station for
A contract is an agreement between
Late in the evening the doctor
Languages change over time because
""".strip().splitlines()


def main() -> None:
    """Write two passages for each opening."""
    torch.manual_seed(0)
    model = lk.load("demo")
    passages = []
    for _ in range(2):
        made = model.generate(OPENINGS, 160, do_sample=True, temperature=0.7, top_p=0.95)
        passages += [opening + text for opening, text in zip(OPENINGS, made.text, strict=True)]
    path = Path(__file__).parent.parent / "lenskit" / "models" / "files" / "demo_texts.txt"
    path.write_text("\n\f\n".join(" ".join(passage.split("\n")).strip() for passage in passages) + "\n")


main()
