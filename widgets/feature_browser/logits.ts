// What a feature promotes and suppresses: tokens with a bar each.
import { make } from "../shared/dom.ts";
import { signed } from "../shared/numbers.ts";
import { tokenElement } from "../shared/tokens.ts";
import type { Weighted, Words } from "./values.ts";

const LINES = 6;

export class Bars {
  readonly element: HTMLElement;
  readonly #list = make("ol", "lk-f-lines");

  constructor(title: string, kind: "for" | "against") {
    this.element = make("section", `lk-f-logits lk-f-${kind}`, make("h4", "lk-f-subhead", title), this.#list);
  }

  show(tokens: readonly Weighted[], largest: number, words: Words, why: string | null): void {
    if (!tokens.length) {
      this.#list.replaceChildren(make("li", "lk-f-none", why ?? "nothing"));
      return;
    }
    this.#list.replaceChildren(
      ...tokens.slice(0, LINES).map(({ id, value }) => {
        const bar = make("span", "lk-f-bar");
        bar.style.width = `${Math.min(100, (100 * Math.abs(value)) / (largest || 1))}%`;
        const line = make("li", "lk-f-line", tokenElement(words.piece(id)), make("span", "lk-f-track", bar), make("span", "lk-f-number", signed(value)));
        line.title = signed(value);
        return line;
      }),
    );
  }
}
