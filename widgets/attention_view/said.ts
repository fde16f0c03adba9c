// What stands below the large pattern: where the query looks, and what the model says next, with and without some heads.
import { button, make } from "../shared/dom.ts";
import { nats, probability } from "../shared/numbers.ts";
import { Segmented } from "../shared/segmented.ts";
import { tokenElement, type Piece } from "../shared/tokens.ts";
import type { Patterns } from "./patterns.ts";
import { nameOf, type By, type Head } from "./spec.ts";

const LINES = 6;

/** Where one query looks, the most first, as text with bars. */
export class Looks {
  readonly element = make("section", "lk-a-looks");
  readonly #heading = make("div", "lk-a-heading");
  readonly #list = make("ol", "lk-a-list");

  constructor() {
    this.element.append(this.#heading, this.#list);
  }

  show(patterns: Patterns, weights: Float32Array, pos: number, key: number | null): void {
    const n = patterns.positions;
    this.#heading.replaceChildren(tokenElement(patterns.token(pos)), ` (${pos}) looks at`);
    const row = [...weights.subarray(pos * n, (pos + 1) * n)].map((weight, at) => ({ weight, at }));
    const first = row.filter(({ weight }) => weight >= 0.005).sort((a, b) => b.weight - a.weight).slice(0, LINES);
    const chosen = key === null ? undefined : row[key];
    if (chosen && !first.some(({ at }) => at === key)) first.splice(LINES - 1, 1, chosen);
    const lines = first.map(({ weight, at }) => {
      const where = make("span", "lk-a-where", String(at));
      const name = make("span", "lk-a-name", tokenElement(patterns.token(at)), where);
      const line = make("li", "lk-a-line", name, bars([[weight, "lk-a-bar"]]), make("span", "lk-a-number", probability(weight)));
      line.classList.toggle("lk-a-chosen", at === key);
      return line;
    });
    this.#list.replaceChildren(...(lines.length ? lines : [make("li", "lk-a-none", "nothing but the first token, which is hidden")]));
  }
}

export interface SaidEvents {
  restore(head: Head | null): void;
  by(by: By): void;
}

/** The next token at the end of the prompt, before (grey) and after (accent) some heads are ablated. */
export class Said {
  readonly element = make("section", "lk-a-said");
  readonly #heading = make("div", "lk-a-heading");
  readonly #list = make("ol", "lk-a-list");
  readonly #kl = make("div", "lk-a-kl");
  readonly #tried = make("div", "lk-a-tried");
  readonly #chips = make("span", "lk-a-chips");
  readonly #by: Segmented<By>;
  readonly #all: HTMLButtonElement;
  #shown = "";
  #next: object | null = null;

  constructor(
    private readonly live: boolean,
    private readonly signal: AbortSignal,
    private readonly events: SaidEvents,
  ) {
    const choices = [
      { value: "zero", label: "zero" },
      { value: "mean", label: "mean" },
    ] as const;
    this.#by = new Segmented<By>("replaced by", choices, signal, (by) => events.by(by));
    this.#all = button("put all back", () => events.restore(null), signal);
    this.#all.classList.add("lk-a-link");
    this.#tried.append(make("span", "lk-a-caption", "ablated"), this.#chips, this.#all, ...(live ? [this.#by.element] : []));
    this.element.append(this.#heading, this.#list, this.#kl, this.#tried);
  }

  /** `ablated` is what is chosen; what is shown may still be the answer to an earlier choice. */
  show(patterns: Patterns, ablated: readonly Head[], by: By): void {
    const { next } = patterns;
    const chosen = JSON.stringify([ablated, by]);
    // The pointer moves over the pattern: nothing here depends on it.
    if (next === this.#next && chosen === this.#shown) return;
    [this.#next, this.#shown] = [next, chosen];
    const changed = next.ablated.length > 0;
    const last = tokenElement(patterns.token(patterns.positions - 1));
    this.#heading.replaceChildren("Next token after ", last, changed ? ": as it is → ablated" : "");
    const most = Math.min(LINES, next.ids.length);
    const lines = Array.from({ length: most }, (_, i) => {
      const [before, after] = [next.before[i] as number, next.after[i] as number];
      const piece: Piece | undefined = patterns.piece(next.ids[i] as number);
      const both = changed ? [[before, "lk-a-was"], [after, "lk-a-is"]] as const : [[before, "lk-a-bar"]] as const;
      const number = changed ? `${probability(before)} → ${probability(after)}` : probability(before);
      const line = make("li", "lk-a-line", make("span", "lk-a-name", tokenElement(piece)), bars(both), make("span", "lk-a-number", number));
      line.classList.toggle("lk-a-two", changed);
      return line;
    });
    this.#list.replaceChildren(...lines);
    this.#kl.textContent = changed ? `the prediction moved by ${next.kl === null ? "∞" : nats(next.kl)} nats (KL)` : "";
    this.#tried.hidden = ablated.length === 0;
    this.#all.hidden = !this.live || ablated.length < 2;
    this.#by.value = by;
    this.#chips.replaceChildren(...ablated.map((head) => this.#chip(head)));
  }

  #chip(head: Head): HTMLElement {
    if (!this.live) return make("span", "lk-a-chip", nameOf(head));
    const chip = button(`${nameOf(head)} ×`, () => this.events.restore(head), this.signal);
    chip.classList.add("lk-a-chip");
    chip.title = `put head ${nameOf(head)} back`;
    chip.setAttribute("aria-label", chip.title);
    return chip;
  }
}

function bars(values: readonly (readonly [number, string])[]): HTMLElement {
  const track = make("span", "lk-a-track");
  for (const [value, name] of values) {
    const bar = make("span", name);
    bar.style.width = `${Math.max(0, Math.min(1, value)) * 100}%`;
    track.append(bar);
  }
  return track;
}
