// The line of Python that reads a cell again.
import type { Cell } from "./grid.ts";
import type { Answer } from "./source.ts";

// JSON's escapes are Python's, so this is a Python string.
const text = (prompt: string): string => JSON.stringify(prompt);

/** `two`: whether both sides are shown. */
export function copied({ message, first }: Answer, { row, pos }: Cell, two: boolean): string {
  const { prompt, target, versus, lens, second, other } = message;
  if (!two) {
    const targets = [target === null ? "" : `, target=${target}`, versus === null ? "" : `, versus=${versus}`].join("");
    return `lens.read(${text(prompt)}${targets}).tokens(layer=${first.layers[row]}, pos=${pos})`;
  }
  const sides = other === null ? `${nameOf(lens)}, ${text(prompt)}, ${nameOf(second ?? "other")}` : `${nameOf(lens)}, ${text(prompt)}, other=${text(other)}`;
  return `lk.compare(${sides})[${row}, ${pos}].to_pandas()`;
}

/** The lens as it is in the table: its name there is no name in Python. */
const nameOf = (lens: string): string => `table.lenses[${JSON.stringify(lens)}]`;
