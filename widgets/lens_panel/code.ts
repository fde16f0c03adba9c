// Pieces of Python.
import type { Answer } from "../lens_table/source.ts";

/** The prompt as Python reads it: its text, or all ids where the model has written on, which need not read the same as text. */
export function promptOf({ message, first }: Answer): string {
  if (!message.written.length) return JSON.stringify(message.prompt);
  return JSON.stringify(Array.from({ length: first.positions }, (_, pos) => first.tokenId(pos)));
}
