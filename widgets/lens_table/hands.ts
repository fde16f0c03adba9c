// The keys of the lens table, and where they lead.
import { handled } from "../shared/keys.ts";
import type { Cell } from "./grid.ts";
import { walk } from "./walk.ts";

/** Those of the second module: rank, steer, swap, ablate, write on. */
export type Doing = "r" | "s" | "w" | "a" | "g";

export interface Hands {
  move(cell: Cell): void;
  extend(cell: Cell): void;
  pin(): void;
  escape(): void;
  makeTarget(): void;
  makeVersus(): void;
  do(what: Doing): void;
}

/** `live`: whether there is a model that can be asked. */
export function pressed(
  event: KeyboardEvent,
  from: Cell,
  size: { rows: number; positions: number },
  lineOf: (row: number) => number,
  live: boolean,
  hands: Hands,
): void {
  const to = event.altKey ? null : walk(event, from, size, lineOf);
  const plain = !event.ctrlKey && !event.metaKey && !event.altKey;
  const letter = plain && live ? event.key.toLowerCase() : "";
  if (to && event.shiftKey) hands.extend(to);
  else if (to) hands.move(to);
  else if (event.key === "Enter" && plain && !event.shiftKey) hands.pin();
  else if (event.key === "Escape") hands.escape();
  else if (letter === "t") hands.makeTarget();
  else if (letter === "v") hands.makeVersus();
  else if (/^[rswag]$/.test(letter)) hands.do(letter as Doing);
  else return;
  handled(event);
}
