// What became of a click, said for a moment; a text to be copied by hand stays.
import { make } from "../shared/dom.ts";

export class Note {
  readonly element = make("div", "lk-note");
  #timer: ReturnType<typeof setTimeout> | undefined;

  constructor(signal: AbortSignal) {
    this.element.setAttribute("role", "status");
    signal.addEventListener("abort", () => clearTimeout(this.#timer));
  }

  say(message: string, text = ""): void {
    clearTimeout(this.#timer);
    this.element.replaceChildren(message);
    if (text) {
      const field = make("input", "lk-byhand");
      field.value = text;
      field.readOnly = true;
      field.setAttribute("aria-label", "to be copied");
      this.element.append(field);
      field.select();
    } else {
      this.#timer = setTimeout(() => this.element.replaceChildren(), 2500);
    }
  }
}
