// A small segmented switch: radio buttons that look like one control.
import { make, uniqueId } from "./dom.ts";

export interface Choice<T extends string> {
  readonly value: T;
  readonly label: string;
}

export class Segmented<T extends string> {
  readonly element: HTMLElement;
  readonly #inputs = new Map<T, HTMLInputElement>();

  constructor(label: string, choices: readonly Choice<T>[], signal: AbortSignal, chosen: (value: T) => void) {
    const id = uniqueId("switch");
    const caption = make("span", "lk-caption", label);
    caption.id = id;
    const group = make("div", "lk-segments");
    group.setAttribute("role", "radiogroup");
    group.setAttribute("aria-labelledby", id);
    for (const choice of choices) {
      const input = make("input", "lk-radio");
      input.type = "radio";
      input.name = id;
      input.value = choice.value;
      input.addEventListener("change", () => chosen(choice.value), { signal });
      // The arrows move between the segments: they are not for the notebook.
      input.addEventListener("keydown", (event) => event.key.startsWith("Arrow") && event.stopPropagation(), { signal });
      group.append(make("label", "lk-segment", input, make("span", "", choice.label)));
      this.#inputs.set(choice.value, input);
    }
    this.element = make("div", "lk-switch", caption, group);
  }

  set value(value: T) {
    const input = this.#inputs.get(value);
    if (input) input.checked = true;
  }
}
