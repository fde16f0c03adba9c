// Ablating or amplifying a feature: a slider, and how the next token moves, beside random directions of the same size.
import { button, make, set } from "../shared/dom.ts";
import { probability } from "../shared/numbers.ts";
import { Segmented } from "../shared/segmented.ts";
import { tokenElement } from "../shared/tokens.ts";
import { divergence } from "./histogram.ts";
import { isNeutral, neutral, type Steer, type SteerBy } from "./spec.ts";
import type { Fired, Odds, Steered, Words } from "./values.ts";

const LINES = 6;
const RANGES: Record<SteerBy, readonly [low: number, high: number]> = { scale: [0, 4], add: [-2, 2] };

export interface Steerable {
  readonly live: boolean;
  readonly steer: Steer;
  readonly fired: Fired;
  /** How active the feature is on the prompt. */
  readonly on: readonly number[] | undefined;
  /** The token at which something is added. */
  readonly pos: number | null;
  readonly steered: Steered | null;
  readonly working: boolean;
}

export class Steering {
  readonly element = make("section", "lk-f-steer");
  readonly #by: Segmented<SteerBy>;
  readonly #slider = make("input", "lk-f-slider");
  readonly #amount = make("output", "lk-f-amount");
  readonly #what = make("span", "lk-f-quiet lk-f-what");
  readonly #ablate: HTMLButtonElement;
  readonly #reset: HTMLButtonElement;
  readonly #result = make("div", "lk-f-result");
  readonly #work = make("div", "lk-progress lk-unknown");
  #now: Steer = { by: "scale", amount: 1 };

  constructor(changed: (steer: Steer) => void, signal: AbortSignal) {
    const choices = [
      { value: "scale", label: "scale" },
      { value: "add", label: "add" },
    ] as const;
    this.#by = new Segmented<SteerBy>("steer", choices, signal, (by) => changed({ by, amount: neutral(by) }));
    set(this.#slider, { type: "range", step: 0.05 });
    this.#slider.addEventListener("input", () => changed({ by: this.#now.by, amount: Number(this.#slider.value) }), { signal });
    this.#slider.addEventListener("keydown", (event) => /^(Arrow|Page|Home|End)/.test(event.key) && event.stopPropagation(), { signal });
    this.#ablate = button("Ablate", () => changed({ by: "scale", amount: 0 }), signal);
    this.#reset = button("As it is", () => changed({ by: this.#now.by, amount: neutral(this.#now.by) }), signal);
    this.#result.setAttribute("aria-live", "polite");
    const controls = make("div", "lk-f-controls", this.#by.element, this.#slider, this.#amount, this.#ablate, this.#reset, this.#what);
    this.element.append(controls, make("div", "lk-f-working", this.#work), this.#result);
  }

  show(given: Steerable, words: Words): void {
    const { steer, live, working } = given;
    this.#now = steer;
    this.element.hidden = !live && given.steered === null;
    const [low, high] = RANGES[steer.by];
    set(this.#slider, { min: low, max: high, "aria-label": steer.by === "scale" ? "times what it is" : "of its maximum, added" });
    this.#slider.value = String(steer.amount);
    this.#slider.style.setProperty("--lk-f-neutral", `${(100 * (neutral(steer.by) - low)) / (high - low)}%`);
    this.#by.value = steer.by;
    this.#amount.textContent = steer.by === "scale" ? `× ${steer.amount.toFixed(2)}` : `${steer.amount < 0 ? "−" : "+"} ${Math.abs(steer.amount).toFixed(2)} max`;
    const silent = steer.by === "scale" && given.on !== undefined && !given.on.some((value) => value > 0);
    this.#slider.disabled = !live || silent;
    this.#ablate.disabled = silent || (steer.by === "scale" && steer.amount === 0);
    this.#reset.disabled = isNeutral(steer);
    for (const each of [this.#ablate, this.#reset]) each.hidden = !live;
    this.#what.replaceChildren(...this.#explanation(given, silent, words));
    this.#work.hidden = !working;
    this.#showResult(given.steered, words, working);
  }

  #explanation({ steer, fired, pos }: Steerable, silent: boolean, words: Words): (Node | string)[] {
    if (silent) return ["silent here: there is nothing to scale, add some"];
    if (steer.by === "scale") return [steer.amount === 0 ? "ablated wherever it fires" : ""];
    return ["at ", tokenElement(words.piece(fired.ids[pos ?? fired.positions - 1]))];
  }

  #showResult(steered: Steered | null, words: Words, working: boolean): void {
    this.#result.hidden = steered === null;
    this.#result.classList.toggle("lk-f-stale", working);
    if (!steered) return;
    const { message, odds } = steered;
    const list = make("ol", "lk-f-lines lk-f-odds", ...odds.slice(0, LINES).map((each) => line(each, words)));
    const { draws, kl, placebo_kl, placebo_spread } = message;
    const moved = kl === null ? "∞" : divergence(kl);
    const spread = (mean: number | null, around: number | null): string => (mean === null ? "…" : `${divergence(mean)}${around === null ? "" : ` ± ${divergence(around)}`}`);
    const placebo = draws ? `${spread(placebo_kl, placebo_spread)} (${draws} draws)` : "…";
    const verdict = make("div", "lk-f-verdict", "the prediction moves by ", make("b", "", moved), " nats · by a random direction of the same norm ", make("b", "", placebo));
    const key = make("div", "lk-f-key", swatch("was"), "as it is", swatch("is"), "steered", swatch("placebo"), "placebo, mean ± s.d.");
    this.#result.replaceChildren(make("h4", "lk-f-subhead", "Next token"), list, verdict, key);
  }
}

const swatch = (kind: string): HTMLElement => make("span", `lk-f-swatch lk-f-swatch-${kind}`);

function line({ id, before, after, placebo, spread }: Odds, words: Words): HTMLElement {
  const bar = (name: string, value: number): HTMLElement => {
    const made = make("span", name);
    made.style.width = `${100 * Math.min(1, Math.max(0, value))}%`;
    return made;
  };
  const track = make("span", "lk-f-track lk-f-two", bar("lk-f-was", before), bar("lk-f-is", after));
  const known = Number.isFinite(placebo);
  if (known) {
    const around = Number.isFinite(spread) ? spread : 0;
    const whisker = make("span", "lk-f-whisker");
    const [low, high] = [Math.max(0, placebo - around), Math.min(1, placebo + around)];
    whisker.style.insetInlineStart = `${100 * low}%`;
    whisker.style.width = `${100 * (high - low)}%`;
    track.append(whisker);
  }
  const beside = known ? `placebo ${probability(placebo)}${Number.isFinite(spread) ? ` ± ${probability(spread)}` : ""}` : "";
  return make(
    "li",
    "lk-f-line",
    tokenElement(words.piece(id)),
    track,
    make("span", "lk-f-number", `${probability(before)} → ${probability(after)}`),
    make("span", "lk-f-number lk-f-beside", beside),
  );
}
