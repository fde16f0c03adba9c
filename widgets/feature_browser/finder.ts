// Above the list: what to look for, and in which of a feature's tokens. Below it: how many there are, and the pinned ones.
import { make } from "../shared/dom.ts";
import { handled } from "../shared/keys.ts";
import { whole } from "../shared/numbers.ts";
import { Segmented } from "../shared/segmented.ts";
import type { Facts, FindBy, Only, Spec } from "./spec.ts";

export interface FinderEvents {
  find(text: string): void;
  by(by: FindBy): void;
  only(only: Only): void;
  /** Back to the list. */
  left(): void;
}

export class Finder {
  readonly above = make("div", "lk-f-finder");
  readonly below = make("div", "lk-f-under");
  readonly #field = make("input", "lk-f-find");
  readonly #by: Segmented<FindBy>;
  readonly #only: Segmented<Only>;
  readonly #count = make("span", "lk-f-quiet");

  constructor(
    private readonly facts: Facts,
    events: FinderEvents,
    signal: AbortSignal,
  ) {
    this.#field.type = "text";
    this.#field.placeholder = "Find a token, or a number";
    this.#field.spellcheck = false;
    this.#field.autocapitalize = "off";
    this.#field.dir = "auto";
    this.#field.setAttribute("autocomplete", "off");
    this.#field.setAttribute("aria-label", `find a ${facts.unit} by a token or its number`);
    this.#field.addEventListener("input", () => events.find(this.#field.value), { signal });
    this.#field.addEventListener(
      "keydown",
      (event) => {
        if (event.isComposing) return;
        if (event.key === "Escape" && this.#field.value) {
          handled(event);
          this.#field.value = "";
          events.find("");
        } else if (event.key === "Enter" || event.key === "ArrowDown" || event.key === "Escape") {
          handled(event);
          events.left();
        }
      },
      { signal },
    );
    const bys = [
      { value: "promotes", label: "promotes" },
      { value: "fires", label: "fires on" },
    ] as const;
    this.#by = new Segmented<FindBy>("which", bys, signal, (by) => events.by(by));
    const onlys = [
      { value: "all", label: "all" },
      { value: "pinned", label: "pinned" },
    ] as const;
    this.#only = new Segmented<Only>("show", onlys, signal, (only) => events.only(only));
    this.above.append(this.#field, this.#by.element);
    this.below.append(this.#count, this.#only.element);
  }

  focus(): void {
    this.#field.focus();
    this.#field.select();
  }

  show(spec: Spec, total: number | null, held: number | null): void {
    if (!this.#field.matches(":focus") && this.#field.value !== spec.find) this.#field.value = spec.find;
    this.#by.value = spec.by;
    this.#only.value = spec.only;
    const { features, unit } = this.facts;
    const of = held === null ? features : held;
    const all = held === null ? `${whole(features)} ${unit}s` : `${whole(held)} of ${whole(features)} ${unit}s are in this page`;
    this.#count.textContent = total === null ? "" : total === of ? all : `${whole(total)} of ${whole(of)}${held === null ? "" : ` in this page (${whole(features)} in all)`}`;
  }
}
