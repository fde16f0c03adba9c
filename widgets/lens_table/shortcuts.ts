// The keys of the lens table.
import type { Shortcut } from "../shared/keys.ts";

const MOVES: Shortcut = { caps: ["← ↑ ↓ →"], does: "cell", foot: true };
const MORE: readonly Shortcut[] = [
  { caps: ["Home", "End"], does: "first, last token" },
  { caps: ["PgUp", "PgDn"], does: "ten layers" },
  { caps: ["Shift ← ↑ ↓ →"], does: "region: what is read in it" },
  { caps: ["Enter"], does: "pin", foot: true },
  { caps: ["Esc"], does: "unpin, stop", foot: true },
];
const LIVE: readonly Shortcut[] = [
  { caps: ["T"], does: "make target", foot: true },
  { caps: ["V"], does: "second target" },
  { caps: ["R"], does: "its rank everywhere", foot: true },
  { caps: ["S"], does: "steer" },
  { caps: ["W"], does: "swap with" },
  { caps: ["A"], does: "ablate" },
  { caps: ["G"], does: "write on", foot: true },
  { caps: ["/"], does: "prompt", foot: true },
];
const LAST: readonly Shortcut[] = [
  { caps: ["Ctrl Z"], does: "undo" },
  { caps: ["Ctrl Shift Z"], does: "redo" },
  { caps: ["?"], does: "all keys", foot: true },
];

export const shortcuts = (live: boolean): readonly Shortcut[] => [MOVES, ...MORE, ...(live ? LIVE : []), ...LAST];
