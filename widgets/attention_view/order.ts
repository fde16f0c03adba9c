// In which order the heads stand, and where a key leads among them.
import type { Patterns } from "./patterns.ts";
import { sameHead, type Head, type Pick } from "./spec.ts";

/** Rows of heads, from the top. A row of "all" is a layer; sorted, the heads simply flow. */
export interface Order {
  readonly rows: readonly (readonly (Head | null)[])[];
  readonly sorted: boolean;
}

/** All heads, the last layer on top as in every view; or sorted by a score, in rows of `columns`. */
export function orderOf(patterns: Patterns, pick: Pick, columns: number): Order {
  const heads = patterns.layers.map((layer, row) =>
    Array.from({ length: patterns.message.heads[row] as number }, (_, head): Head => [layer, head]),
  );
  if (pick === "all" || !patterns.scores(pick)) return { rows: heads.reverse(), sorted: false };
  const flat = heads.flat().sort((a, b) => (patterns.score(pick, b) as number) - (patterns.score(pick, a) as number));
  const rows = Array.from({ length: Math.ceil(flat.length / columns) }, (_, i) => flat.slice(i * columns, (i + 1) * columns));
  return { rows, sorted: true };
}

export function placeOf({ rows }: Order, head: Head): { row: number; column: number } | null {
  const row = rows.findIndex((heads) => heads.some((other) => sameHead(other, head)));
  if (row < 0) return null;
  return { row, column: (rows[row] as Head[]).findIndex((other) => sameHead(other, head)) };
}

/** The head that a key leads to from another, or null for a key that does not move. */
export function walkHeads(event: { key: string; ctrlKey: boolean; metaKey: boolean }, order: Order, from: Head): Head | null {
  const place = placeOf(order, from) ?? { row: 0, column: 0 };
  const all = event.ctrlKey || event.metaKey;
  let { row, column } = place;
  const last = order.rows.length - 1;
  const end = (order.rows[row]?.length ?? 1) - 1;
  if (event.key === "ArrowUp") row = all ? 0 : row - 1;
  else if (event.key === "ArrowDown") row = all ? last : row + 1;
  else if (event.key === "ArrowLeft") column -= all ? end : 1;
  else if (event.key === "ArrowRight") column += all ? end : 1;
  else if (event.key === "Home") [row, column] = [all ? 0 : row, 0];
  else if (event.key === "End") [row, column] = [all ? last : row, end];
  else return null;
  // Sorted, the right end of a row leads on to the next.
  if (order.sorted && column > end && row < last) [row, column] = [row + 1, 0];
  else if (order.sorted && column < 0 && row > 0) [row, column] = [row - 1, Number.POSITIVE_INFINITY];
  row = Math.min(last, Math.max(0, row));
  const heads = order.rows[row] ?? [];
  return heads[Math.min(heads.length - 1, Math.max(0, column))] ?? null;
}

/** The same head some layers on, or null where no layer is. */
export function otherLayer(patterns: Patterns, [layer, head]: Head, step: 1 | -1): Head | null {
  const row = patterns.layers.indexOf(layer) + step;
  const next = patterns.layers[row];
  return next === undefined ? null : [next, Math.min(head, (patterns.message.heads[row] as number) - 1)];
}

/** The query and key that a key leads to. In a causal model a query sees itself and what is before it. */
export function walkCells(
  event: { key: string; ctrlKey: boolean; metaKey: boolean },
  from: { pos: number; key: number },
  positions: number,
  causal: boolean,
): { pos: number; key: number } | null {
  const all = event.ctrlKey || event.metaKey;
  let { pos, key } = from;
  if (event.key === "ArrowUp") pos = all ? 0 : pos - 1;
  else if (event.key === "ArrowDown") pos = all ? positions - 1 : pos + 1;
  else if (event.key === "ArrowLeft") key = all ? 0 : key - 1;
  else if (event.key === "ArrowRight") key = all ? positions - 1 : key + 1;
  else if (event.key === "Home") [pos, key] = [all ? 0 : pos, 0];
  else if (event.key === "End") [pos, key] = [all ? positions - 1 : pos, positions - 1];
  else return null;
  pos = Math.min(positions - 1, Math.max(0, pos));
  key = Math.min(causal ? pos : positions - 1, Math.max(0, key));
  return { pos, key };
}
