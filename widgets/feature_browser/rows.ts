// The rows of one order of the list: only the pages that were looked at are here.
import type { ListQuestion, RowsMessage } from "./messages.ts";
import type { Row } from "./values.ts";

/** So many rows are asked for at once: two screens of them. */
export const PAGE = 64;

export const sameList = (a: ListQuestion | null, b: ListQuestion | null): boolean => JSON.stringify(a) === JSON.stringify(b);

export class Rows {
  total = 0;
  /** Where the feature stands that was last looked for. */
  found: { readonly feature: number; readonly at: number | null } | null = null;
  readonly #rows = new Map<number, Row>();
  readonly #asked = new Set<number>();

  constructor(readonly question: ListQuestion) {}

  row(index: number): Row | undefined {
    return this.#rows.get(index);
  }

  /** Where a feature stands among the rows that are here, or null. */
  indexOf(feature: number): number | null {
    for (const [index, row] of this.#rows) if (row.feature === feature) return index;
    return this.found?.feature === feature ? this.found.at : null;
  }

  /** The pages that a stretch of rows lies in and that were not asked for yet; they then count as asked for. */
  lacking(first: number, end: number): number[] {
    const pages: number[] = [];
    for (let page = Math.floor(first / PAGE); page * PAGE < end; page++) {
      if (!this.#asked.has(page)) pages.push(page);
      this.#asked.add(page);
    }
    return pages;
  }

  /** What was asked for will not come: it may be asked for again. */
  forget(): void {
    this.#asked.clear();
    for (const index of this.#rows.keys()) this.#asked.add(Math.floor(index / PAGE));
  }

  take(message: RowsMessage, rows: readonly Row[], feature: number | null): void {
    this.total = message.total;
    if (feature !== null) this.found = { feature, at: message.at };
    rows.forEach((row, i) => this.#rows.set(message.start + i, row));
  }
}
