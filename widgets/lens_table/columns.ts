// The columns' widths and places: each as wide as most of its tokens, within bounds.
import { tokenWidth } from "../shared/tokens.ts";
import type { Cells } from "./cells.ts";

const MIN = 56;
const MAX = 96;
const PADDING = 11;
/** The share of a column's cells that is shown whole: one long word should not widen the column for thirty. */
const FITTED = 0.8;
/** The width of one monospaced character at 12 px, until it has been measured. */
const USUAL_ADVANCE = 7.23;

export class Columns {
  /** Where each column starts; one more entry than there are columns. */
  lefts: number[] = [0];
  #advance = USUAL_ADVANCE;
  #sheets: readonly Cells[] = [];

  get count(): number {
    return this.lefts.length - 1;
  }
  get total(): number {
    return this.lefts[this.count] as number;
  }
  left(pos: number): number {
    return this.lefts[pos] as number;
  }
  width(pos: number): number {
    return (this.lefts[pos + 1] as number) - (this.lefts[pos] as number);
  }

  /**
   * Measures the columns of new cells; those before `from` are what they were. Two grids side by side are given both
   * sheets, so that their columns have the same widths.
   */
  fit(sheets: readonly Cells[], from: number): void {
    this.#sheets = sheets;
    const positions = sheets[0]?.positions ?? 0;
    const widest = sheets.map((cells) => measureOf(cells));
    this.lefts.length = Math.min(this.lefts.length, from + 1);
    for (let pos = this.count; pos < positions; pos++) {
      const chars = Math.max(...widest.map((of) => of(pos)));
      const width = Math.min(MAX, Math.max(MIN, Math.ceil(chars * this.#advance + PADDING)));
      this.lefts.push(this.left(pos) + width);
    }
  }

  /** Takes the true width of a character; whether the columns changed. */
  measured(advance: number): boolean {
    if (!(advance > 4) || Math.abs(advance - this.#advance) < 0.05) return false;
    this.#advance = advance;
    if (this.#sheets.length) this.fit(this.#sheets, 0);
    return true;
  }

  /** The columns that a stretch of the sheet shows: `[first, end)`. */
  within(from: number, to: number): [number, number] {
    let first = 0;
    while (first < this.count - 1 && this.left(first + 1) <= from) first++;
    let end = first;
    while (end < this.count && this.left(end) < to) end++;
    return [first, end];
  }
}

/** How many characters wide each column of these cells should be. */
function measureOf(cells: Cells): (pos: number) => number {
  const widths = new Map<number, number>();
  const widthOf = (id: number): number => {
    let width = widths.get(id);
    if (width === undefined) widths.set(id, (width = tokenWidth(cells.piece(id))));
    return width;
  };
  return (pos) => {
    const said = cells.layers.map((_, row) => widthOf(cells.topId(pos, row))).sort((a, b) => a - b);
    const most = said[Math.floor((said.length - 1) * FITTED)] ?? 0;
    const ids = cells.tokenIds(pos);
    const head = ids.reduce((sum, id) => sum + widthOf(id), ids.length - 1);
    return Math.max(head, most);
  };
}
