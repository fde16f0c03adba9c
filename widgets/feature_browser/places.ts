// Where a key leads in the list.

/** The row that a key leads to from another, or null for a key that does not move. */
export function walk(key: string, from: number, total: number, screen: number): number | null {
  const to = { ArrowUp: from - 1, ArrowDown: from + 1, PageUp: from - screen, PageDown: from + screen, Home: 0, End: total - 1 }[key];
  return to === undefined || total === 0 ? null : Math.min(total - 1, Math.max(0, to));
}

/** The token that a key leads to; from none, the first or the last. */
export function step(key: string, from: number | null, positions: number): number | null {
  const right = key === "ArrowRight";
  if ((!right && key !== "ArrowLeft") || positions === 0) return null;
  const at = from ?? (right ? -1 : positions);
  return Math.min(positions - 1, Math.max(0, at + (right ? 1 : -1)));
}
