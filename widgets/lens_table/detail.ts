// The detail of one cell: its top tokens with bars, its numbers with units, and what one can do with it.
import { button, make } from "../shared/dom.ts";
import { nats, probability, signed, whole } from "../shared/numbers.ts";
import { tokenElement, tokenNodes, tokenText } from "../shared/tokens.ts";
import { rowInWords } from "./cells.ts";
import type { Cell } from "./grid.ts";
import type { Doing } from "./hands.ts";
import { Note } from "./note.ts";
import type { Table } from "./table.ts";

export interface DetailEvents {
  makeTarget(id: number): void;
  makeVersus(id: number): void;
  clearTarget(): void;
  copy(): void;
  do(what: Doing): void;
}

/** One of the top tokens. Live, it is a button that makes its token the target. */
interface Line {
  readonly element: HTMLElement;
  readonly token: HTMLElement;
  readonly bar: HTMLElement;
  readonly number: HTMLElement;
}

export class Detail {
  readonly element = make("div", "lk-cell-detail");
  readonly #heading = make("div", "lk-heading");
  readonly #list = make("ol", "lk-top");
  readonly #lines: Line[] = [];
  readonly #entropy = make("span");
  readonly #kl = make("span");
  readonly #targetName = make("span");
  readonly #target = make("span");
  readonly #versusName = make("span");
  readonly #versus = make("span");
  readonly #versusLine = make("div", "", this.#versusName, this.#versus);
  readonly #make: HTMLButtonElement;
  readonly #against: HTMLButtonElement;
  readonly #clear: HTMLButtonElement;
  readonly #rank: HTMLButtonElement;
  readonly #along = make("span", "lk-along");
  readonly #note: Note;
  #shown: { table: Table; cell: Cell } | null = null;

  constructor(
    private readonly live: boolean,
    private readonly events: DetailEvents,
    private readonly signal: AbortSignal,
  ) {
    this.#make = button("Make target", () => this.#shown && events.makeTarget(this.#topId()), signal);
    this.#against = button("Second target", () => this.#shown && events.makeVersus(this.#topId()), signal);
    this.#clear = button("Clear target", () => events.clearTarget(), signal);
    const doing = (label: string, what: Doing): HTMLButtonElement => button(label, () => events.do(what), signal);
    this.#rank = doing("Its rank", "r");
    const copy = button("Copy as Python", () => events.copy(), signal);
    const acts = [doing("Steer", "s"), doing("Swap with…", "w"), doing("Ablate", "a")];
    // No list of definitions: notebooks bring their own style for those.
    const numbers = make("div", "lk-numbers");
    numbers.append(make("div", "", make("span", "", "entropy"), this.#entropy));
    numbers.append(make("div", "", make("span", "", "KL to the final prediction"), this.#kl));
    numbers.append(make("div", "", this.#targetName, this.#target), this.#versusLine);
    const actions = make("div", "lk-actions", ...(live ? [this.#make, this.#rank, this.#against, this.#clear] : []), copy);
    this.#note = new Note(signal);
    this.element.append(this.#heading, this.#list, numbers, actions);
    if (live) this.element.append(make("div", "lk-actions lk-acts", this.#along, ...acts));
    this.element.append(this.#note.element);
    this.element.hidden = true;
  }

  #topId(): number {
    const { table, cell } = this.#shown as { table: Table; cell: Cell };
    return table.topId(cell.pos, cell.row);
  }

  show(table: Table, cell: Cell, pinned: boolean, targeted: boolean): void {
    const { pos, row } = cell;
    this.#shown = { table, cell };
    const state = pinned ? "pinned" : row === table.rows - 1 ? "the model's own prediction" : "";
    const words = rowInWords(table, row);
    this.#heading.replaceChildren(
      `${words[0]?.toUpperCase()}${words.slice(1)} after `,
      tokenElement(table.piece(table.tokenId(pos))),
      make("span", "lk-state", state),
    );
    while (this.#lines.length < table.k) this.#addLine();
    this.#lines.forEach((line, place) => this.#fill(line, table, cell, place));
    this.#entropy.textContent = `${nats(table.entropy(pos, row))} nats`;
    this.#kl.textContent = `${nats(table.kl(pos, row))} nats`;
    this.#targetName.replaceChildren("target ", tokenElement(table.piece(table.targetId(pos))));
    this.#target.textContent = `rank ${whole(table.targetRank(pos, row))} · ${probability(table.targetProb(pos, row))}`;
    const versus = table.versusId(pos);
    this.#versusLine.hidden = versus === null;
    if (versus !== null) {
      this.#versusName.replaceChildren("log-probability less that of ", tokenElement(table.piece(versus)));
      this.#versus.textContent = `${signed(table.logProbDifference(pos, row))} nats`;
    }
    this.#clear.hidden = !targeted;
    const top = table.piece(this.#topId());
    const text = tokenText(top);
    this.#against.title = `compare the target with ${text} (V)`;
    this.#clear.title = "the target is then, at each position, what the model itself predicts";
    this.#make.title = `make ${text} the target (T)`;
    this.#rank.title = `the rank of ${text} at every layer and position (R)`;
    this.#along.replaceChildren("along ", tokenElement(top));
    this.element.hidden = false;
  }

  #addLine(): void {
    const token = make("bdi", "lk-token");
    token.dir = "auto";
    const bar = make("span", "lk-bar");
    const number = make("span", "lk-number");
    const parts = [token, make("span", "lk-track", bar), number];
    const element = make(this.live ? "button" : "div", "lk-top-line", ...parts);
    const place = this.#lines.length;
    if (element instanceof HTMLButtonElement) {
      element.type = "button";
      const chosen = (): void => {
        if (!this.#shown) return;
        const { table, cell } = this.#shown;
        this.events.makeTarget(table.topId(cell.pos, cell.row, place));
      };
      element.addEventListener("click", chosen, { signal: this.signal });
    }
    this.#list.append(make("li", "", element));
    this.#lines.push({ element, token, bar, number });
  }

  #fill(line: Line, table: Table, { pos, row }: Cell, place: number): void {
    (line.element.parentElement as HTMLElement).hidden = place >= table.k;
    if (place >= table.k) return;
    const id = table.topId(pos, row, place);
    const p = table.topProb(pos, row, place);
    line.token.replaceChildren(...tokenNodes(table.piece(id)));
    line.bar.style.width = `${Math.max(0, Math.min(1, p)) * 100}%`;
    line.number.textContent = probability(p);
    line.element.classList.toggle("lk-target", id === table.targetId(pos));
    if (this.live) line.element.title = "make it the target";
  }

  /** Says what became of a click. */
  note(message: string, text = ""): void {
    this.#note.say(message, text);
  }
}
