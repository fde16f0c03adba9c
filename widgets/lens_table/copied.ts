// The line of Python that reads a cell again.
import type { Cell } from "./grid.ts";
import type { Answer } from "./source.ts";
import type { Table } from "./table.ts";

// JSON's escapes are Python's, so this is a Python string.
const text = (prompt: string): string => JSON.stringify(prompt);

/** The ids of all that is read: what the model wrote need not read the same as text. */
const idsOf = (table: Table): string => JSON.stringify(Array.from({ length: table.positions }, (_, pos) => table.tokenId(pos)));

/** `two`: whether both sides are shown. */
export function copied({ message, first }: Answer, { row, pos }: Cell, two: boolean): string {
  const { prompt, target, versus, lens, second, other, words, written } = message;
  if (!two) {
    const more = [target === null ? "" : `, target=${target}`, versus === null ? "" : `, versus=${versus}`, words ? ", words=True" : ""].join("");
    return `lens.read(${written.length ? idsOf(first) : text(prompt)}${more}).tokens(layer=${first.layers[row]}, pos=${pos})`;
  }
  const sides = other === null ? `${nameOf(lens)}, ${text(prompt)}, ${nameOf(second ?? "other")}` : `${nameOf(lens)}, ${text(prompt)}, other=${text(other)}`;
  return `lk.compare(${sides})[${row}, ${pos}].to_pandas()`;
}

/** The lens as it is in the table: its name there is no name in Python. */
const nameOf = (lens: string): string => `table.lenses[${JSON.stringify(lens)}]`;
