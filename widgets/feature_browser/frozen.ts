// A frozen page: it holds some of the features, and answers from them what Python answers from all.
import { tokenText } from "../shared/tokens.ts";
import type { FrozenMessage, ListQuestion } from "./messages.ts";
import { cardOf, Fired, rowsOf, steeredOf, type Card, type Row, type Steered, type Words } from "./values.ts";

export class Frozen {
  readonly rows: readonly Row[];
  readonly cards: ReadonlyMap<number, Card>;
  readonly fired: Fired | null;
  readonly steered: Steered | null;
  readonly #words: Words;

  constructor(message: FrozenMessage, buffers: readonly DataView[], words: Words) {
    this.#words = words;
    let at = 0;
    const next = (part: { readonly arrays: readonly unknown[]; readonly pieces: FrozenMessage["rows"]["pieces"] }): DataView[] => {
      words.learn(part.pieces);
      const own = buffers.slice(at, at + part.arrays.length);
      at += part.arrays.length;
      return own;
    };
    this.rows = rowsOf(message.rows, next(message.rows));
    this.cards = new Map(message.cards.map((card) => [card.feature, cardOf(card, next(card))]));
    this.fired = message.fired && new Fired(message.fired, next(message.fired));
    for (const on of message.on) this.fired?.add(on, next(on));
    this.steered = message.steered && steeredOf(message.steered, next(message.steered));
  }

  /** The features that a question asks for, in its order. */
  list(question: ListQuestion): Row[] {
    const wanted = question.find.trim().toLowerCase();
    const shown = this.rows
      .filter(({ feature }) => question.only === "all" || question.pinned.includes(feature))
      .map((row) => (wanted ? this.#found(row, question.by, wanted) : row))
      .filter(({ matches }) => !wanted || matches > 0)
      .map((row) => ({ ...row, value: this.#value(row, question) }))
      .filter(({ value }) => question.prompt === null || value > 0);
    const sign = question.order === "down" ? -1 : 1;
    return shown.sort((a, b) => sign * (a.value - b.value) || a.feature - b.feature);
  }

  /** The row with those of its tokens first in which the text is. */
  #found(row: Row, by: ListQuestion["by"], wanted: string): Row {
    const card = this.cards.get(row.feature);
    const peaks = card?.examples.map(({ ids, peak }) => ids[peak] as number) ?? [];
    const tokens = by === "promotes" ? (card?.promotes.map(({ id }) => id) ?? row.tokens) : [...new Set(peaks)];
    const found = tokens.filter((id) => this.#text(id).includes(wanted));
    return { ...row, tokens: [...found, ...tokens.filter((id) => !found.includes(id))], matches: found.length };
  }

  #text(id: number): string {
    return tokenText(this.#words.piece(id)).replaceAll("·", " ").toLowerCase();
  }

  #value(row: Row, { sort, pos }: ListQuestion): number {
    if (sort === "number") return row.feature;
    if (sort === "density" || sort === "max") return row[sort];
    if (sort === "peakedness") return row.max / (this.cards.get(row.feature)?.message.mean || row.max);
    const on = this.fired?.on(row.feature) ?? [];
    return (sort === "token" && pos !== null ? (on[pos] ?? 0) : Math.max(0, ...on)) / (row.max || 1);
  }
}
