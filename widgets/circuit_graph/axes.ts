// What is set in letters around the picture: the layers' numbers and the prompt's tokens, which stay put while it scrolls,
// and the targets above it.
import { make, type Child } from "../shared/dom.ts";
import { probability, signed } from "../shared/numbers.ts";
import { tokenElement, tokenNodes, tokenText } from "../shared/tokens.ts";
import { GUTTER, type Layout } from "./layout.ts";
import { LOGIT } from "./network.ts";
import type { Scene } from "./scene.ts";

/** A row that is lower than this has no room for its number. */
const READABLE = 15;

export class Axes {
  readonly layers = make("div", "lk-c-layers");
  readonly tokens = make("div", "lk-c-tokens");
  readonly targets = make("div", "lk-c-targets");
  #drawn = "";
  #numbers = new Map<number, HTMLElement>();
  #words: HTMLElement[] = [];

  constructor() {
    // The picture as a whole is read out by what is chosen in it.
    for (const each of [this.layers, this.tokens, this.targets]) each.setAttribute("aria-hidden", "true");
  }

  draw(scene: Scene, layout: Layout): void {
    const { network } = scene;
    this.targets.replaceChildren(...targetsOf(scene, layout));
    const { columns, rows, rotated } = layout;
    const drawn = JSON.stringify([columns.lefts, rows, rotated]);
    if (drawn === this.#drawn) return;
    this.#drawn = drawn;
    this.#numbers.clear();
    this.layers.replaceChildren(
      ...rows.flatMap(({ layer, top, height }): Child[] => {
        if (height < READABLE) return [];
        const name = make("div", "lk-c-layer", layer === network.layers ? "logits" : layer < 0 ? "embed" : String(layer));
        name.style.top = `${top}px`;
        name.style.height = name.style.lineHeight = `${Math.min(height, 24)}px`;
        if (height > 24) name.style.marginTop = `${(height - 24) / 2}px`;
        this.#numbers.set(layer, name);
        return [name];
      }),
    );
    this.tokens.classList.toggle("lk-c-upright", rotated);
    this.tokens.style.width = `${layout.width}px`;
    this.#words = network.tokens.map((piece, pos) => {
      const word = make("div", "lk-c-token lk-token", ...tokenNodes(piece, 16));
      word.dir = "auto";
      word.title = `${tokenText(piece)} (${pos})`;
      word.style.left = `${GUTTER + columns.left(pos)}px`;
      word.style.width = `${columns.width(pos)}px`;
      // Upright, lines run across: one of them is as high as the column is wide.
      if (rotated) word.style.lineHeight = word.style.width;
      return word;
    });
    this.tokens.replaceChildren(make("div", "lk-c-corner"), ...this.#words);
  }

  /** Marks the layer and the token of what is looked at. */
  mark(layer: number | null, pos: number | null): void {
    for (const [at, element] of this.#numbers) element.classList.toggle("lk-c-at", at === layer);
    this.#words.forEach((element, at) => element.classList.toggle("lk-c-at", at === pos));
  }
}

/** Each target: its token, and how much it counts, as a number and as a bar along the lower edge. */
function targetsOf({ items, network }: Scene, { x, y, wide, high }: Layout): HTMLElement[] {
  return items.flatMap(({ lead }, at) => {
    if (network.kind[lead] !== LOGIT) return [];
    const weight = network.weights[lead] as number;
    // What there is only one of has all of the weight, and says what it is.
    const number = weight === 1 ? signed(network.value[lead] as number) : probability(weight);
    const pill = make("div", "lk-c-target", tokenElement(network.label(lead)), make("span", "", number));
    pill.style.left = `${(x[at] as number) - (wide[at] as number)}px`;
    pill.style.top = `${(y[at] as number) - (high[at] as number)}px`;
    pill.style.width = `${2 * (wide[at] as number)}px`;
    pill.style.setProperty("--lk-c-weight", `${100 * weight}%`);
    return [pill];
  });
}
