"""Write the table of architectures into the README, or report everything about each of them.

PYTHONPATH=. .venv/bin/python scripts/architectures_table.py              the README's table, anew
PYTHONPATH=. .venv/bin/python scripts/architectures_table.py --report     every site and error of every type
PYTHONPATH=. .venv/bin/python scripts/architectures_table.py --report llama bloom
"""

import sys
from pathlib import Path

import transformers

from tests.models.architectures import DECODERS
from tests.models.survey import report, survey, table

README = Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- architectures: written by scripts/architectures_table.py -->", "<!-- end of architectures -->"


def written(readme: str, new: str) -> str:
    """The README with another table between the two marks."""
    before, _, rest = readme.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{new}\n\n{END}{after}"


def main() -> None:
    transformers.logging.set_verbosity_error()
    types = [argument for argument in sys.argv[1:] if argument != "--report"] or DECODERS
    surveys = [survey(model_type) for model_type in types]
    if "--report" in sys.argv:
        print(report(surveys))
    else:
        README.write_text(written(README.read_text(), table(surveys)))


if __name__ == "__main__":
    main()
