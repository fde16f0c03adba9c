// A link as a curve: up from its source's upper edge, and into its target from below.
import type { Layout } from "./layout.ts";
import type { Link } from "./scene.ts";

/** A curve that would run straight up through what stands between bends aside. */
const [STRAIGHT, LONG, BOW] = [10, 56, 16];

export function trace(path: CanvasPath, { x, y, high }: Layout, { source, target }: Link): void {
  const [x1, y1] = [x[source] as number, (y[source] as number) - (high[source] as number)];
  const [x2, y2] = [x[target] as number, (y[target] as number) + (high[target] as number)];
  const rise = y1 - y2;
  const bow = Math.abs(x1 - x2) < STRAIGHT && rise > LONG ? BOW * ((source + target) % 2 ? 1 : -1) : 0;
  path.moveTo(x1, y1);
  path.bezierCurveTo(x1 + bow, y1 - 0.45 * rise, x2 + bow, y2 + 0.45 * rise, x2, y2);
}

/** How wide the line of a share is. */
export const widthOf = (share: number): number => 0.9 + 4.2 * Math.sqrt(Math.min(1, Math.abs(share)));
