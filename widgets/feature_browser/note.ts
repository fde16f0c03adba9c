// A note on a feature, in one's own words; it is kept in the spec.
import { make } from "../shared/dom.ts";
import { handled } from "../shared/keys.ts";

export class Note {
  readonly element = make("div", "lk-f-note");
  readonly #field = make("textarea", "lk-f-field");
  #open: number | null = null;
  #feature: number | null = null;

  constructor(private readonly changed: (text: string) => void, left: () => void, signal: AbortSignal) {
    this.#field.rows = 1;
    this.#field.placeholder = "what does it do?";
    this.#field.dir = "auto";
    this.#field.addEventListener("input", () => this.#typed(), { signal });
    this.#field.addEventListener(
      "keydown",
      (event) => {
        if (event.isComposing || (event.key !== "Escape" && (event.key !== "Enter" || event.shiftKey))) return;
        handled(event);
        this.#open = null;
        left();
      },
      { signal },
    );
    this.element.append(this.#field);
  }

  show(feature: number, name: string, text: string): void {
    const typing = this.#field.getRootNode() instanceof Node && this.#field.matches(":focus") && feature === this.#feature;
    this.#feature = feature;
    if (this.#open !== feature) this.#open = null;
    this.#field.setAttribute("aria-label", `note on ${name}`);
    if (!typing) this.#field.value = text;
    this.element.hidden = !text && this.#open !== feature;
    this.#fit();
  }

  /** To be written. */
  open(feature: number): void {
    this.#open = this.#feature = feature;
    this.element.hidden = false;
    this.#field.focus({ preventScroll: true });
    this.#fit();
  }

  #typed(): void {
    this.#open = this.#feature;
    this.#fit();
    this.changed(this.#field.value);
  }

  #fit(): void {
    this.#field.style.height = "auto";
    if (this.#field.scrollHeight) this.#field.style.height = `${Math.min(120, this.#field.scrollHeight + 2)}px`;
  }
}
