// What a grid draws: a reading's cells, or those of the difference of two.
import { milliseconds, whole } from "../shared/numbers.ts";
import type { Piece } from "../shared/tokens.ts";
import type { Answer } from "./source.ts";
import type { Facts } from "./spec.ts";

export interface Cells {
  readonly rows: number;
  readonly positions: number;
  readonly layers: readonly number[];
  readonly site: string;
  piece(id: number): Piece | undefined;
  /** The tokens over a column: one, or two that differ. */
  tokenIds(pos: number): readonly number[];
  /** The token in a cell. */
  topId(pos: number, row: number): number;
  /** Whether a cell has a corner mark. */
  agrees(pos: number, row: number): boolean;
  rowOf(layer: number): number;
}

/** What a row is called beside the grid: its layer's number; the model's own prediction, where that is a row of its own. */
export function rowName(cells: Cells, row: number): string {
  return isFinal(cells, row) && cells.site !== "resid_post" ? "final" : String(cells.layers[row]);
}

/** And in words: a lens of `resid_pre` reads what a layer is given, one of `resid_post` what it has made of it. */
export function rowInWords(cells: Cells, row: number): string {
  if (cells.site === "resid_post") return `layer ${cells.layers[row]}`;
  return isFinal(cells, row) ? "final prediction" : `before layer ${cells.layers[row]}`;
}

export const isFinal = (cells: Cells, row: number): boolean => row === cells.rows - 1;

/** In the foot: how it was computed, and live how long it took and what was recomputed. */
export function told({ message, first }: Answer, { dtype, device, live }: Facts): string {
  const done = `${whole(message.recomputed)} of ${whole(first.positions * (message.other === null ? 1 : 2))} positions recomputed`;
  return [dtype, device, ...(live ? [milliseconds(message.ms), done] : [])].join(" · ");
}

/** What is being looked at, and where it may be asked, what a row is: a lens reads before a layer, or after it. */
export function lookedAt({ site }: Cells, { model, layers, lenses }: Facts): string {
  const rows = lenses.length > 1 || site !== "resid_post" ? ` · ${site}: ${site === "resid_post" ? "after" : "before"} each layer` : "";
  return `${model} · ${layers} layers${rows}`;
}
