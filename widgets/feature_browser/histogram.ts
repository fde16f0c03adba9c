// Histograms of activations: small ones in the list's rows, a large one in the card.
import { make, makeSvg, set } from "../shared/dom.ts";
import { whole } from "../shared/numbers.ts";

const [SMALL_WIDTH, SMALL_HEIGHT] = [96, 16];
const [WIDTH, HEIGHT] = [240, 92];

const spaced = (count: number, width: number): { step: number; bar: number } => {
  const step = width / count;
  return { step, bar: Math.max(1, step * 0.76) };
};

const round = (x: number): number => Math.round(x * 100) / 100;

/** All bars as one path: a row costs one element. `heights` are 0 to 255. */
function outline(heights: readonly number[], width: number, height: number): string {
  const { step, bar } = spaced(heights.length, width);
  return heights
    .map((h, i) => {
      if (h <= 0) return "";
      const tall = Math.max(1.5, (h / 255) * height);
      return `M${round(i * step)} ${height}v${-round(tall)}h${round(bar)}v${round(tall)}z`;
    })
    .join("");
}

export class SmallHistogram {
  readonly element = makeSvg("svg", { width: SMALL_WIDTH, height: SMALL_HEIGHT, viewBox: `0 0 ${SMALL_WIDTH} ${SMALL_HEIGHT}`, class: "lk-f-bars", "aria-hidden": "true" });
  readonly #path = makeSvg("path", { fill: "currentColor" });

  constructor() {
    this.element.append(this.#path);
  }

  set heights(heights: readonly number[]) {
    this.#path.setAttribute("d", outline(heights, SMALL_WIDTH, SMALL_HEIGHT));
  }
}

/** Counts as heights on a log scale, as the rows have them. */
export function logHeights(counts: readonly number[]): number[] {
  const top = Math.log1p(Math.max(1, ...counts));
  return counts.map((count) => (count > 0 ? Math.max(1, Math.round((255 * Math.log1p(count)) / top)) : 0));
}

export const activation = (x: number): string => (x >= 100 ? x.toFixed(0) : x >= 10 ? x.toFixed(1) : x >= 0.1 ? x.toFixed(2) : x.toPrecision(2));

/** A divergence, which is small where little happens: two digits that count. */
export const divergence = (x: number): string => (x >= 0.1 ? x.toFixed(2) : x < 0.00005 ? "0" : x.toFixed(x >= 0.01 ? 3 : 4)).replace(/^0\./, ".");

/** The card's histogram; a mark shows where the chosen token of the prompt stands in it. */
export class LargeHistogram {
  readonly element = make("section", "lk-f-histogram");
  readonly #svg = makeSvg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT + 8}`, role: "img" });
  readonly #ends = make("div", "lk-f-ends");

  constructor() {
    this.element.append(make("h4", "lk-f-subhead", "Activations"), this.#svg, this.#ends);
  }

  show(edges: readonly number[], counts: readonly number[], max: number, mark: number | null): void {
    const end = edges[edges.length - 1] ?? 1;
    const path = makeSvg("path", { d: outline(logHeights(counts), WIDTH, HEIGHT), class: "lk-f-large" });
    const ground = makeSvg("line", { x1: 0, x2: WIDTH, y1: HEIGHT + 0.5, y2: HEIGHT + 0.5, class: "lk-f-ground" });
    const parts: Element[] = [path, ground];
    if (mark !== null && mark > 0 && end > 0) {
      const x = Math.min(WIDTH - 1, (mark / end) * WIDTH);
      parts.push(makeSvg("path", { d: `M${round(x)} ${HEIGHT + 1}l4 7h-8z`, class: "lk-f-mark" }));
    }
    const total = counts.reduce((sum, count) => sum + count, 0);
    set(this.#svg, { "aria-label": `${whole(total)} activations, up to ${activation(max)}, most of them small where the left bars are high` });
    this.#svg.replaceChildren(...parts);
    this.#ends.replaceChildren(make("span", "", "0"), make("span", "", `log count · max ${activation(max)}`));
  }
}
