// The keys of the patch grid, and where they lead.
import { handled, type Shortcut } from "../shared/keys.ts";
import { walk } from "../lens_table/walk.ts";
import type { Cell } from "./region.ts";
import type { Sweep } from "./sweep.ts";

export function keysOf(live: boolean): Shortcut[] {
  const moves: Shortcut[] = [
    { caps: ["← ↑ ↓ →"], does: "cell", foot: true },
    { caps: ["Shift ← ↑ ↓ →"], does: "extend the region" },
    { caps: ["Home", "End"], does: "first, last column" },
    { caps: ["PgUp", "PgDn"], does: "ten layers" },
  ];
  const runs: Shortcut[] = [
    { caps: ["drag"], does: "patch a region", foot: true },
    { caps: ["Enter"], does: "patch this", foot: true },
    { caps: ["Esc"], does: "stop, then clear", foot: true },
    { caps: ["/"], does: "prompts", foot: true },
  ];
  const last: Shortcut[] = [
    { caps: ["Ctrl Z"], does: "undo", foot: true },
    { caps: ["Ctrl Shift Z"], does: "redo" },
    { caps: ["?"], does: "all keys", foot: true },
  ];
  return [...moves, ...(live ? runs : [{ caps: ["Enter"], does: "choose", foot: true }, { caps: ["Esc"], does: "clear", foot: true }]), ...last];
}

export interface Hands {
  move(cell: Cell): void;
  extend(cell: Cell): void;
  run(): void;
  escape(): void;
}

export function pressed(event: KeyboardEvent, sweep: Sweep, from: Cell, hands: Hands): void {
  const plain = !event.ctrlKey && !event.metaKey && !event.altKey;
  const size = { rows: sweep.rows, positions: sweep.columns };
  // The last layer's row is the first line.
  const to = event.altKey ? null : walk(event, { row: from.row, pos: from.column }, size, (row) => sweep.rows - 1 - row);
  const cell = to && { row: to.row, column: to.pos };
  if (cell && event.shiftKey) hands.extend(cell);
  else if (cell) hands.move(cell);
  else if (event.key === "Enter" && plain && !event.shiftKey) hands.run();
  else if (event.key === "Escape") hands.escape();
  else return;
  handled(event);
}
