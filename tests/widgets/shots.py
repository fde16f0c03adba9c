"""Screenshots of the lens table to look at: `python -m tests.widgets.shots [folder]`."""

import sys
from pathlib import Path

from playwright.sync_api import Error, sync_playwright

from tests.conftest import QUIET_CHROMIUM, find_chromium
from tests.widgets.made_up import MadeUp
from tests.widgets.view import page_of

OVEN = "She put the cake in the oven and waited for it to"
LONG = " ".join(["When Mary and John went to the store, John gave a drink to the capital of France."] * 6)
SHOTS = {
    "light": {"prompt": OVEN, "selection": {"layer": 23, "pos": 11}},
    "dark": {"prompt": OVEN, "selection": {"layer": 23, "pos": 11}, "dark": True},
    "entropy": {"prompt": OVEN, "statistic": "entropy", "order": "first-first"},
    "rank": {"prompt": OVEN, "statistic": "rank", "target": 20, "dark": True},
    "long": {"prompt": LONG, "size": (1400, 860)},
    "narrow": {"prompt": OVEN, "size": (360, 1250)},
    "tablet": {"prompt": OVEN, "size": (800, 1150), "live": False},
    "one": {"prompt": "Hello"},
    "shallow": {"prompt": OVEN, "layers": 2, "size": (1200, 520)},
    "deep": {"prompt": OVEN, "layers": 64, "size": (1400, 1150)},
}


def frozen(*, layers: int = 30, live: bool = True, **spec: object) -> str:
    """A page of a made-up table; `live` only shows the live look, since nothing answers there."""
    made_up = MadeUp(layers=layers)
    return page_of(made_up, made_up.spec(**spec), live=live)  # type: ignore[arg-type]


def fail(error: Error) -> None:
    raise error


def shoot(folder: Path, names: list[str]) -> None:
    """Write one picture for each name into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=QUIET_CHROMIUM)
        for name in names:
            options = dict(SHOTS[name])
            width, height = options.pop("size", (1320, 900))
            scheme = "dark" if options.pop("dark", False) else "light"
            file = folder / f"{name}.html"
            file.write_text(frozen(**options))
            view = browser.new_page(
                viewport={"width": width, "height": height}, color_scheme=scheme, device_scale_factor=1.5
            )
            view.on("pageerror", fail)
            view.goto(file.as_uri())
            view.wait_for_selector(".lk-cell")
            view.screenshot(path=folder / f"{name}.png")
            view.close()
        browser.close()


if __name__ == "__main__":
    shoot(Path(sys.argv[1] if len(sys.argv) > 1 else "shots"), sys.argv[2:] or list(SHOTS))
