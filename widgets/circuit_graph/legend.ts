// What the picture's shapes mean, with the scale of influence in its own unit.
import { percent } from "../feature_browser/list.ts";
import { make } from "../shared/dom.ts";
import type { Layout } from "./layout.ts";
import { ERROR, type Network } from "./network.ts";

export class Legend {
  readonly element = make("div", "lk-c-legend");

  show({ header, kind }: Network, { radius, largest }: Layout): void {
    const units = (["neurons", "transcoder"] as const).filter((kind) => header.layers.includes(kind));
    const unit = units.map((kind) => (kind === "neurons" ? "neuron" : "feature")).join(" or ");
    const disc = (share: number, words: string): HTMLElement => {
      const made = entry("disc", `${words}${percent(share * largest)}`);
      (made.firstChild as HTMLElement).style.width = `${2 * radius * Math.sqrt(share)}px`;
      return made;
    };
    const scale = largest > 0 ? [disc(1, `${unit}, influence `), disc(0.25, "")] : [];
    const errors = kind.includes(ERROR) ? [entry("diamond", "error: what a dictionary misses")] : [];
    const shapes = [entry("square", "embedding"), ...errors];
    this.element.replaceChildren(...scale, ...shapes, entry("raises", "raises"), entry("lowers", "lowers; the wider, the larger its share"));
  }
}

const entry = (shape: string, words: string): HTMLElement => make("span", "lk-c-entry", make("span", `lk-c-shape lk-c-${shape}`), words);
