// Where a key leads from a cell.
import type { Cell } from "./grid.ts";

/** Lines a page key moves by. */
const PAGE = 10;

/** The cell that a key leads to, or null for a key that does not move. `lineOf` turns rows into lines and back. */
export function walk(
  event: { key: string; ctrlKey: boolean; metaKey: boolean },
  from: Cell,
  size: { rows: number; positions: number },
  lineOf: (row: number) => number,
): Cell | null {
  const all = event.ctrlKey || event.metaKey;
  let { pos } = from;
  let line = lineOf(from.row);
  if (event.key === "ArrowUp") line = all ? 0 : line - 1;
  else if (event.key === "ArrowDown") line = all ? size.rows - 1 : line + 1;
  else if (event.key === "ArrowLeft") pos = all ? 0 : pos - 1;
  else if (event.key === "ArrowRight") pos = all ? size.positions - 1 : pos + 1;
  else if (event.key === "PageUp") line -= PAGE;
  else if (event.key === "PageDown") line += PAGE;
  else if (event.key === "Home") [line, pos] = [all ? 0 : line, 0];
  else if (event.key === "End") [line, pos] = [all ? size.rows - 1 : line, size.positions - 1];
  else return null;
  const within = (at: number, count: number): number => Math.min(count - 1, Math.max(0, at));
  return { row: lineOf(within(line, size.rows)), pos: within(pos, size.positions) };
}
