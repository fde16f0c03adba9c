// The detail of one cell of a comparison: what either side says there, and how far apart they are.
import { button, make } from "../shared/dom.ts";
import { nats, probability, whole } from "../shared/numbers.ts";
import { tokenElement, tokenText } from "../shared/tokens.ts";
import { sideNames } from "../lens_table/asking.ts";
import { rowInWords } from "../lens_table/cells.ts";
import type { Difference } from "../lens_table/compared.ts";
import type { Cell } from "../lens_table/grid.ts";
import { Note } from "../lens_table/note.ts";
import type { Table } from "../lens_table/table.ts";
import type { Doings, Looked } from "./contract.ts";
import { change, DIFFERENCES } from "./differences.ts";

/** Tokens of either side. */
const SHOWN = 6;

export class PairDetail {
  readonly element = make("div", "lk-cell-detail lk-pair-detail");
  readonly #heading = make("div", "lk-heading");
  readonly #sides = make("div", "lk-pair-sides");
  readonly #numbers = make("div", "lk-numbers");
  readonly #note: Note;
  readonly #clear: HTMLButtonElement;

  constructor(private readonly doings: Doings) {
    const { signal, facts } = doings;
    this.#clear = button("Clear target", () => doings.clearTarget(), signal);
    const copy = button("Copy as Python", () => doings.copy(), signal);
    this.#note = new Note(signal);
    const actions = make("div", "lk-actions", ...(facts.live ? [this.#clear] : []), copy);
    this.element.append(this.#heading, this.#sides, this.#numbers, actions, this.#note.element);
    this.#sides.addEventListener("click", (event) => this.#chosen(event.target), { signal });
  }

  show({ answer, active: cell, pinned, spec, two }: Looked): void {
    const { message, first, second, difference } = answer;
    this.element.hidden = !two || !second || !difference;
    if (!two || !second || !difference) return;
    const { pos, row } = cell;
    const words = rowInWords(first, row);
    const heads = difference.tokenIds(pos).flatMap((id, i) => [...(i ? [" → "] : []), tokenElement(difference.piece(id))]);
    this.#heading.replaceChildren(`${words[0]?.toUpperCase()}${words.slice(1)} after `, ...heads, make("span", "lk-state", pinned ? "pinned" : ""));
    const names = sideNames(message);
    this.#sides.replaceChildren(this.#side(names[0], first, cell), this.#side(names[1], second, cell));
    this.#numbers.replaceChildren(...this.#between(difference, cell), ...this.#each(first, second, names, cell));
    this.#clear.hidden = spec.target === null && spec.versus === null;
  }

  #side(name: string, table: Table, { pos, row }: Cell): HTMLElement {
    const target = table.targetId(pos);
    const lines = Array.from({ length: Math.min(SHOWN, table.k) }, (_, i) => {
      const id = table.topId(pos, row, i);
      const parts = [tokenElement(table.piece(id)), make("span", "lk-number", probability(table.topProb(pos, row, i)))];
      const line = make(this.doings.facts.live ? "button" : "div", `lk-pair-line${id === target ? " lk-target" : ""}`, ...parts);
      line.dataset.id = String(id);
      if (line instanceof HTMLButtonElement) [line.type, line.title] = ["button", "make it the target"];
      return make("li", "", line);
    });
    return make("div", "lk-pair-side", make("div", "lk-pair-name", name), make("ol", "lk-top", ...lines));
  }

  #chosen(target: EventTarget | null): void {
    const line = target instanceof Element ? target.closest<HTMLElement>("button.lk-pair-line") : null;
    if (line) this.doings.makeTarget(Number(line.dataset.id));
  }

  #between(difference: Difference, { pos, row }: Cell): HTMLElement[] {
    const measures = DIFFERENCES.slice(0, 3).map((each) => {
      const value = each.show(each.value(difference, pos, row));
      return lineOf(each.title, each.unit ? `${value} ${each.unit}` : value);
    });
    const changed = tokenElement(difference.piece(difference.between("changed_ids", pos, row)));
    return [...measures, lineOf("largest change", changed, ` ${change(difference.between("largest_change", pos, row))}`)];
  }

  /** The numbers that each has by itself. */
  #each(first: Table, second: Table, names: readonly [string, string], { pos, row }: Cell): HTMLElement[] {
    const both = (of: (table: Table) => string): string => `${of(first)} → ${of(second)}`;
    const targets = [...new Set([first, second].map((table) => tokenText(table.piece(table.targetId(pos)))))];
    const target = make("span", "lk-token", targets.join(" → "));
    return [
      make("div", "lk-pair-arrow", make("span", "", ""), make("span", "", `${names[0]} → ${names[1]}`)),
      lineOf(["p of target ", target], both((table) => probability(table.targetProb(pos, row)))),
      lineOf("its rank", both((table) => whole(table.targetRank(pos, row)))),
      lineOf("entropy (nats)", both((table) => nats(table.entropy(pos, row)))),
      lineOf("KL to the final (nats)", both((table) => nats(table.kl(pos, row)))),
    ];
  }

  /** Says what became of a click. */
  note(message: string, text = ""): void {
    this.#note.say(message, text);
  }
}

function lineOf(name: string | readonly (Node | string)[], ...value: (Node | string)[]): HTMLElement {
  return make("div", "", make("span", "", ...(typeof name === "string" ? [name] : name)), make("span", "", ...value));
}
