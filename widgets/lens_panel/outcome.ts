// What came of acting: three continuations beside each other, and how the next token's odds moved.
import { make } from "../shared/dom.ts";
import { probability } from "../shared/numbers.ts";
import { tokenElement, tokenNodes, type Piece } from "../shared/tokens.ts";
import type { Numbers } from "../shared/wire.ts";

export interface Written {
  readonly arrays: ReadonlyMap<string, Numbers>;
  readonly token: number;
  readonly other: number | null;
  readonly whole: boolean;
}

const SIDES = ["before", "after", "placebo"] as const;
const TITLES = {
  before: "what the model writes by itself",
  after: "what it writes with this",
  placebo: "what it writes with a random direction of the same length",
} as const;
const LISTED = 7;

export class Outcome {
  readonly element = make("div", "lk-outcome");
  readonly #texts = make("div", "lk-sides");
  readonly #odds = make("div", "lk-odds");

  constructor(private readonly piece: (id: number) => Piece | undefined) {
    this.element.append(this.#texts, this.#odds);
  }

  clear(): void {
    this.#texts.replaceChildren();
    this.#odds.replaceChildren();
  }

  show({ arrays, token, other, whole }: Written): void {
    this.element.classList.toggle("lk-unfinished", !whole);
    const before = arrays.get("before");
    this.#texts.replaceChildren(...SIDES.map((side) => this.#text(side, arrays.get(side), before)));
    this.#odds.replaceChildren(...this.#lines(arrays, new Set([token, other])));
  }

  #text(side: (typeof SIDES)[number], ids: Numbers | undefined, before: Numbers | undefined): HTMLElement {
    const same = (id: number, i: number): boolean => side === "before" || before?.[i] === id;
    // From the first token that differs on, it is another text.
    const parted = Array.from(ids ?? []).findIndex((id, i) => !same(id, i));
    const tokens = Array.from(ids ?? [], (id, i) => {
      const element = make("bdi", `lk-token${i === parted ? " lk-parts" : ""}`, ...tokenNodes(this.piece(id)));
      element.dir = "auto";
      return element;
    });
    const text = make("div", "lk-written-text", ...(tokens.length ? tokens : ["…"]));
    const name = make("div", "lk-side-caption", side);
    name.title = TITLES[side];
    return make("div", `lk-side-text lk-${side}${parted < 0 && side !== "before" && tokens.length ? " lk-unmoved" : ""}`, name, text);
  }

  #lines(arrays: ReadonlyMap<string, Numbers>, named: ReadonlySet<number | null>): HTMLElement[] {
    const ids = Array.from(arrays.get("next_ids") ?? []).slice(0, LISTED);
    const [before, after, placebo] = SIDES.map((side) => arrays.get(`next_${side}`));
    if (!before || !ids.length) return [];
    const head = make("div", "lk-odds-head", make("span", "", "next token"), make("span", "", ""), make("span", "", "before → after"), make("span", "", "placebo"));
    const lines = ids.map((id, i) => {
      const [p, q, r] = [before[i], after?.[i], placebo?.[i]];
      const bars = make("span", "lk-two-bars", barOf("lk-grey", p), barOf("lk-bar", q));
      const numbers = make("span", "lk-number", `${probability(p ?? 0)} → ${q === undefined ? "…" : probability(q)}`);
      const line = make("div", `lk-odds-line${named.has(id) ? " lk-target" : ""}`, tokenElement(this.piece(id)), bars, numbers);
      line.append(make("span", "lk-number", r === undefined ? "…" : probability(r)));
      return line;
    });
    return [head, ...lines];
  }
}

function barOf(className: string, p: number | undefined): HTMLElement {
  const bar = make("span", className);
  bar.style.width = `${(p ?? 0) * 100}%`;
  return bar;
}
