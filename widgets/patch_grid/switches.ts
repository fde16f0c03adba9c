// The switches in the title row: which site is patched, and which way.
import { Segmented } from "../shared/segmented.ts";
import { siteLabel, type Direction, type Question } from "./spec.ts";

export class Switches {
  readonly #sites: Segmented<string>;
  readonly #directions: Segmented<Direction>;
  readonly elements: readonly HTMLElement[];

  constructor(sites: readonly string[], signal: AbortSignal, chosen: (change: Partial<Question>) => void) {
    const choices = sites.map((site) => ({ value: site, label: siteLabel(site) }));
    this.#sites = new Segmented("site", choices, signal, (site) => chosen({ site }));
    const ways = (["denoise", "noise"] as const).map((value) => ({ value, label: value }));
    this.#directions = new Segmented<Direction>("direction", ways, signal, (direction) => chosen({ direction }));
    this.elements = [this.#sites.element, this.#directions.element];
  }

  show({ site, direction }: Question): void {
    this.#sites.value = site;
    this.#directions.value = direction;
  }
}
