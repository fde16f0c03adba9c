// The next token before a patch (grey) and after it (accent).
import { make } from "../shared/dom.ts";
import { probability } from "../shared/numbers.ts";
import { tokenElement } from "../shared/tokens.ts";
import type { Patched, Sweep } from "./sweep.ts";

/** As many tokens as are told apart at a glance. */
const SHOWN = 7;

export class OddsList {
  readonly element = make("div", "lk-pg-odds");
  readonly #title = make("div", "lk-pg-subhead");
  readonly #list = make("ol", "lk-pg-list");

  constructor() {
    this.element.append(this.#title, this.#list);
  }

  /** `patched` is null while nobody has run the patch: then the list shows what it starts from. */
  show(sweep: Sweep, patched: Patched | null): void {
    const denoise = sweep.header.direction === "denoise";
    const base = denoise ? "corrupt" : "clean";
    this.#title.textContent = `Next token: ${base} → ${patched ? "with this patch" : "…"}`;
    const start = sweep.next.map(({ id, before, after }) => ({ id, before: denoise ? after : before, after: Number.NaN }));
    const odds = patched?.odds ?? start.sort((a, b) => b.before - a.before);
    const { answer, against } = sweep.header;
    const lines = odds.slice(0, SHOWN).map(({ id, before, after }) => {
      const known = !Number.isNaN(after);
      const bars = make("span", "lk-pg-bars", bar("lk-pg-before", before));
      if (known) bars.append(bar("lk-pg-after", after));
      const numbers = make("span", "lk-pg-numbers", probability(before), " → ", known ? probability(after) : "…");
      const role = id === answer ? " lk-pg-is-answer" : id === against ? " lk-pg-is-against" : "";
      return make("li", `lk-pg-odd${role}`, tokenElement(sweep.piece(id)), bars, numbers);
    });
    this.#list.replaceChildren(...lines);
  }
}

function bar(className: string, share: number): HTMLElement {
  const element = make("span", className);
  element.style.width = `${Math.max(0, Math.min(1, share)) * 100}%`;
  return element;
}
