// The keys of the feature browser, and the orders of its list.
import type { Shortcut } from "../shared/keys.ts";
import type { Choice } from "../shared/segmented.ts";
import type { Sort } from "./spec.ts";

const MOVES: readonly Shortcut[] = [
  { caps: ["↑ ↓"], does: "feature", foot: true },
  { caps: ["PgUp", "PgDn"], does: "a screen of features" },
  { caps: ["Home", "End"], does: "first, last" },
];
const PROMPT: readonly Shortcut[] = [
  { caps: ["← →"], does: "token of the prompt", foot: true },
  { caps: ["Esc"], does: "no token" },
];
const MARKS: readonly Shortcut[] = [
  { caps: ["P"], does: "pin", foot: true },
  { caps: ["N"], does: "note", foot: true },
  { caps: ["F"], does: "find", foot: true },
];
const LIVE: readonly Shortcut[] = [
  { caps: ["A"], does: "ablate", foot: true },
  { caps: ["/"], does: "prompt", foot: true },
];
const LAST: readonly Shortcut[] = [
  { caps: ["Ctrl Z"], does: "undo" },
  { caps: ["Ctrl Shift Z"], does: "redo" },
  { caps: ["?"], does: "all keys", foot: true },
];

export function shortcutsOf(prompted: boolean, live: boolean): Shortcut[] {
  return [...MOVES, ...(prompted ? PROMPT : []), ...MARKS, ...(prompted && live ? LIVE : []), ...LAST];
}

export function sortsOf(prompted: boolean): Choice<Sort>[] {
  const always: Choice<Sort>[] = [
    { value: "number", label: "number" },
    { value: "density", label: "density" },
    { value: "max", label: "max" },
    { value: "peakedness", label: "peakedness" },
  ];
  const here: Choice<Sort>[] = [
    { value: "prompt", label: "fires on prompt" },
    { value: "token", label: "at token" },
  ];
  return prompted ? [...always, ...here] : always;
}
