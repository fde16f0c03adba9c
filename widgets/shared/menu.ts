// A compact menu for a choice that is too long for a switch: the browser's own, so every key and reader knows it.
import { make, uniqueId } from "./dom.ts";
import type { Choice } from "./segmented.ts";

export class Menu<T extends string> {
  readonly element: HTMLElement;
  readonly #select = make("select", "lk-select");
  #choices = "";

  constructor(label: string, choices: readonly Choice<T>[], signal: AbortSignal, chosen: (value: T) => void) {
    const caption = make("label", "lk-caption", label);
    this.#select.id = caption.htmlFor = uniqueId("menu");
    this.#select.addEventListener("change", () => chosen(this.#select.value as T), { signal });
    // Arrows and letters choose: they are not for the notebook.
    this.#select.addEventListener("keydown", (event) => !event.ctrlKey && !event.metaKey && event.stopPropagation(), { signal });
    this.element = make("div", "lk-switch", caption, this.#select);
    this.choices = choices;
  }

  set choices(choices: readonly Choice<T>[]) {
    const key = JSON.stringify(choices);
    if (key === this.#choices) return;
    this.#choices = key;
    this.#select.replaceChildren(
      ...choices.map(({ value, label }) => {
        const option = make("option", "", label);
        option.value = value;
        return option;
      }),
    );
  }

  set value(value: T) {
    this.#select.value = value;
  }
}
