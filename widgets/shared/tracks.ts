// Columns of different widths side by side: where each starts, and which of them a stretch shows.

export class Tracks {
  /** Where each column starts; one more entry than there are columns. */
  readonly lefts: readonly number[];

  constructor(widths: readonly number[] = []) {
    const lefts = [0];
    for (const width of widths) lefts.push((lefts[lefts.length - 1] as number) + width);
    this.lefts = lefts;
  }

  get count(): number {
    return this.lefts.length - 1;
  }
  get total(): number {
    return this.lefts[this.count] as number;
  }
  left(column: number): number {
    return this.lefts[column] as number;
  }
  width(column: number): number {
    return (this.lefts[column + 1] as number) - (this.lefts[column] as number);
  }

  /** The columns that a stretch shows: `[first, end)`. */
  within(from: number, to: number): [number, number] {
    let first = 0;
    while (first < this.count - 1 && this.left(first + 1) <= from) first++;
    let end = first;
    while (end < this.count && this.left(end) < to) end++;
    return [first, end];
  }
}
