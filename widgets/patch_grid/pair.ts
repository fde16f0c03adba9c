// The two prompts, one above the other in the same columns; tokens that differ are marked and joined by a line.
import { make, set } from "../shared/dom.ts";
import { tokenNodes, tokenText } from "../shared/tokens.ts";
import type { Tracks } from "../shared/tracks.ts";
import type { Sweep } from "./sweep.ts";

/** More characters than the widest column has room for. */
const LIMIT = 24;
/** So much of a token's column may be covered: it is the space around the token. */
const ALLOWED = 4;

type Which = "clean" | "corrupt";

export class Pair {
  readonly element = make("div", "lk-pg-pair");
  readonly #clean: HTMLElement;
  readonly #corrupt: HTMLElement;
  readonly #joints = make("div", "lk-pg-joints");

  /** `heads`: whether they are the heads of a grid's columns, or stand by themselves above it. */
  constructor(private readonly heads: boolean) {
    [this.#clean, this.#corrupt] = [this.#line("clean"), this.#line("corrupt")];
    this.#joints.setAttribute("aria-hidden", "true");
    this.element.append(this.#clean, this.#joints, this.#corrupt);
  }

  #line(which: Which): HTMLElement {
    const label = make("div", "lk-pg-gutter lk-pg-which", which);
    const line = make("div", `lk-pg-line lk-pg-${which}`, label);
    if (this.heads) {
      set(line, { role: "row", "aria-rowindex": which === "clean" ? 1 : 2 });
      set(label, { role: "rowheader", "aria-colindex": 1 });
    }
    return line;
  }

  /** Draws the columns `first … end - 1`. */
  draw(sweep: Sweep, tracks: Tracks, [first, end]: readonly [number, number], gutter: number): void {
    const columns = Array.from({ length: Math.max(0, end - first) }, (_, i) => first + i);
    const place = (element: HTMLElement, pos: number): HTMLElement => {
      element.style.left = `${gutter + tracks.left(pos)}px`;
      element.style.width = `${tracks.width(pos)}px`;
      return element;
    };
    const token = (id: number, pos: number): HTMLElement => {
      const piece = sweep.piece(id);
      const box = make("span", "lk-pg-box", ...tokenNodes(piece, LIMIT));
      box.dir = "auto";
      const element = make("div", `lk-pg-token${sweep.differs(pos) ? " lk-pg-differs" : ""}`, box);
      element.title = tokenText(piece);
      element.dataset.pos = String(pos);
      if (this.heads) set(element, { role: "columnheader", "aria-colindex": pos + 2 });
      return place(element, pos);
    };
    this.#fill(this.#clean, columns.map((pos) => token(sweep.clean[pos] as number, pos)));
    this.#fill(this.#corrupt, columns.map((pos) => token(sweep.corrupt[pos] as number, pos)));
    this.#joints.replaceChildren(
      ...columns.filter((pos) => sweep.differs(pos)).map((pos) => place(make("div", "lk-pg-joint"), pos)),
    );
    this.element.style.width = `${gutter + tracks.total}px`;
  }

  #fill(line: HTMLElement, tokens: readonly HTMLElement[]): void {
    line.replaceChildren(line.firstElementChild as Element, ...tokens);
  }

  /** Leaves out the tokens that the labels at the left would cut off: half a token is another token. */
  cover(tracks: Tracks, from: number): void {
    for (const line of [this.#clean, this.#corrupt]) {
      for (const token of line.querySelectorAll<HTMLElement>(".lk-pg-token")) {
        token.classList.toggle("lk-pg-covered", tracks.left(Number(token.dataset.pos)) < from - ALLOWED);
      }
    }
  }

  /** Marks the column that is looked at. */
  mark(pos: number | null): void {
    for (const line of [this.#clean, this.#corrupt]) {
      for (const token of line.querySelectorAll<HTMLElement>(".lk-pg-token")) {
        token.classList.toggle("lk-pg-at", token.dataset.pos === String(pos));
      }
    }
  }
}
