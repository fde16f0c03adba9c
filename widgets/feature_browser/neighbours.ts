// What lies near a feature: tokens that reach it, features that write alike or fire together. Features are links.
import { button, make, type Child } from "../shared/dom.ts";
import { effect } from "../shared/numbers.ts";
import { tokenElement, tokenText } from "../shared/tokens.ts";
import { nameOf, type Facts } from "./spec.ts";
import type { Card, Neighbour, Weighted, Words } from "./values.ts";

const TOKENS = 8;
const FEATURES = 6;

export interface NeighbourEvents {
  feature(feature: number): void;
  through(feature: number, layer: number, head: number): void;
}

export class Neighbours {
  readonly element = make("div", "lk-f-near");
  readonly #reads = make("section", "lk-f-reads");
  readonly #similar = make("section", "lk-f-kin");
  readonly #coactive = make("section", "lk-f-kin");

  constructor(
    private readonly facts: Facts,
    private readonly events: NeighbourEvents,
    private readonly signal: AbortSignal,
  ) {
    this.element.append(this.#reads, this.#similar, this.#coactive);
  }

  show(card: Card, words: Words): void {
    this.#showReads(card, words);
    this.#showKin(this.#similar, "Writes alike (cosine)", card.similar, words);
    this.#showKin(this.#coactive, `Fires together (${card.message.coactive_by})`, card.coactive, words);
  }

  #showReads(card: Card, words: Words): void {
    const rows: Child[] = [];
    const tokens = (found: readonly Weighted[]): Child[] => spread(found.slice(0, TOKENS).map(({ id }) => tokenElement(words.piece(id))));
    if (card.embeds.length) rows.push(make("dt", "", "directly"), make("dd", "", ...tokens(card.embeds)));
    for (const [layer, head, norm] of card.message.heads) {
      const name = `${layer}.${head}`;
      const known = card.through.get(name);
      rows.push(make("dt", "", `by head ${name}`), make("dd", "", ...(known ? tokens(known) : [this.#ask(card.feature, layer, head), make("span", "lk-f-quiet", ` norm ${effect(norm)}`)])));
    }
    this.#reads.hidden = rows.length === 0;
    this.#reads.replaceChildren(make("h4", "lk-f-subhead", "Answers to, by the weights"), make("dl", "lk-f-through", ...rows));
  }

  /** A link that shows the tokens of a head, which take a moment to compute. */
  #ask(feature: number, layer: number, head: number): Child {
    if (!this.facts.live || this.facts.model === null) return "";
    const link = button("which tokens?", () => this.events.through(feature, layer, head), this.signal);
    link.className = "lk-button lk-f-link";
    link.setAttribute("aria-label", `which tokens reach it through head ${layer}.${head}?`);
    return link;
  }

  #showKin(section: HTMLElement, title: string, kin: readonly Neighbour[], words: Words): void {
    const lines = kin.slice(0, FEATURES).map(({ id, value, promotes }) => {
      const link = button(nameOf(this.facts, id), () => this.events.feature(id), this.signal);
      link.className = "lk-button lk-f-link";
      const says = promotes.map((token) => words.piece(token));
      link.setAttribute("aria-label", `${this.facts.unit} ${nameOf(this.facts, id)}, ${effect(value)}: ${says.map(tokenText).join(" ")}`);
      const tokens = make("span", "lk-f-says", ...spread(says.map((piece) => tokenElement(piece))));
      return make("li", "lk-f-line", link, tokens, make("span", "lk-f-number", effect(value)));
    });
    section.hidden = lines.length === 0;
    section.replaceChildren(make("h4", "lk-f-subhead", title), make("ul", "lk-f-lines", ...lines));
  }
}

/** With a space that can break between them. */
const spread = (nodes: readonly Node[]): Child[] => nodes.flatMap((node, i) => (i ? [" ", node] : [node]));
