// Which item is under the pointer, or in a rectangle.
import type { Layout } from "./layout.ts";

/** So far beside a small node still is it. */
const NEAR = 6;

export class Hits {
  constructor(private readonly layout: Layout) {}

  /** The nearest item whose edge is not too far away, or null. All are looked at, which for 1,500 takes microseconds. */
  at(x: number, y: number): number | null {
    const { layout } = this;
    let [best, least] = [null as number | null, NEAR];
    layout.x.forEach((centre, item) => {
      const across = Math.abs(x - centre) - (layout.wide[item] as number);
      const away = Math.max(across, Math.abs(y - (layout.y[item] as number)) - (layout.high[item] as number));
      if (away < least) [best, least] = [item, away];
    });
    return best;
  }

  /** The items whose centres are in a rectangle, given by two corners. */
  within(from: readonly [number, number], to: readonly [number, number]): number[] {
    const between = (at: number, a: number, b: number): boolean => at >= Math.min(a, b) && at <= Math.max(a, b);
    const inside = (at: number): boolean =>
      between(this.layout.x[at] as number, from[0], to[0]) && between(this.layout.y[at] as number, from[1], to[1]);
    return Array.from(this.layout.x.keys()).filter(inside);
  }
}
