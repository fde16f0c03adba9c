// What feeds the chosen node and what it feeds, as lines with a bar and a number; a click goes there.
import { percent } from "../feature_browser/list.ts";
import { button, make, type Child } from "../shared/dom.ts";
import { linkNumber } from "./lighting.ts";
import type { Scene } from "./scene.ts";
import { lineOf, lineText } from "./words.ts";

const FEW = 7;

export interface ListEvents {
  /** To that item. */
  go(item: number): void;
  /** Only a look; null back. */
  look(item: number | null): void;
}

interface Line {
  readonly item: number;
  readonly number: string;
  /** Signed, of 1. */
  readonly share: number;
  readonly title: string;
}

export class Lines {
  readonly element = make("section", "lk-c-lines");
  readonly #title = make("h4", "lk-f-subhead");
  readonly #list = make("ol", "lk-f-lines");
  readonly #more: HTMLButtonElement;
  #all = false;
  #again: () => void = () => {};

  constructor(
    private readonly events: ListEvents,
    private readonly signal: AbortSignal,
  ) {
    this.#more = button("", () => this.#toggle(), signal);
    this.#more.className = "lk-button lk-f-link";
    this.element.append(this.#title, this.#list, this.#more);
  }

  #toggle(): void {
    this.#all = !this.#all;
    this.#again();
  }

  show(title: string, lines: readonly Line[], scene: Scene, none: string): void {
    this.#again = () => this.show(title, lines, scene, none);
    this.#title.replaceChildren(title, make("span", "lk-f-quiet", lines.length > 1 ? String(lines.length) : ""));
    const largest = lines.reduce((most, { share }) => Math.max(most, Math.abs(share)), 0) || 1;
    const shown = lines.slice(0, this.#all ? 40 : FEW);
    this.#list.replaceChildren(...(shown.length ? shown.map((line) => this.#line(line, largest, scene)) : [make("li", "lk-f-none", none)]));
    this.#more.hidden = lines.length <= FEW;
    this.#more.textContent = this.#all ? "fewer" : `${Math.min(40, lines.length) - FEW} more`;
  }

  #line({ item, number, share, title }: Line, largest: number, scene: Scene): Child {
    const name = button("", () => this.events.go(item), this.signal);
    name.className = "lk-button lk-f-link lk-c-name";
    const { group, lead } = scene.item(item);
    const says = group === null ? scene.network.words(lead) : "";
    name.replaceChildren(...lineOf(scene, item), make("span", "lk-f-quiet", says && ` ${says}`));
    const bar = make("span", "lk-f-bar");
    bar.style.width = `${(100 * Math.abs(share)) / largest}%`;
    const sign = share < 0 ? "lk-f-against" : "lk-f-for";
    const line = make("li", `lk-f-line ${sign}`, name, make("span", "lk-f-track", bar), make("span", "lk-f-number", number));
    name.title = says ? `${title} · ${says}` : title;
    line.addEventListener("pointerenter", () => this.events.look(item), { signal: this.signal });
    line.addEventListener("pointerleave", () => this.events.look(null), { signal: this.signal });
    return line;
  }
}

/** The links into an item, or out of it, the strongest first. */
export function linesOf(scene: Scene, at: number, end: "source" | "target"): Line[] {
  return ((end === "source" ? scene.into[at] : scene.outOf[at]) ?? []).map((each) => {
    const link = scene.link(each);
    const of = end === "source" ? "it" : lineText(scene, link.target);
    const edges = link.edges > 1 ? ` (${link.edges} edges)` : "";
    const title = `${percent(Math.abs(link.share))} of all that reaches ${of}${edges}`;
    return { item: link[end], number: linkNumber(scene, link), share: link.share, title };
  });
}

/** The most influential features, where nothing is chosen. */
export function topLines({ items, network }: Scene): Line[] {
  return items
    .map(({ influence, lead, group }, item) => ({ item, influence, counts: group !== null || network.isFeature(lead) }))
    .filter(({ counts }) => counts)
    .sort((a, b) => b.influence - a.influence)
    .slice(0, 40)
    .map(({ item, influence }) => {
      const number = percent(influence);
      return { item, number, share: influence, title: `${number} of the targets' weight comes to it` };
    });
}
