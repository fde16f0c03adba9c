// The name of a group: a field that is there while nodes are gathered, or while a group is chosen.
import { button, make } from "../shared/dom.ts";
import { handled } from "../shared/keys.ts";

export class Naming {
  readonly element = make("div", "lk-c-naming");
  readonly #field = make("input", "lk-f-field");
  readonly #go: HTMLButtonElement;
  #given = "";

  constructor(
    private readonly named: (name: string) => void,
    left: () => void,
    signal: AbortSignal,
  ) {
    this.#field.type = "text";
    this.#field.dir = "auto";
    this.#field.maxLength = 80;
    this.#field.addEventListener(
      "keydown",
      (event) => {
        if (event.isComposing || (event.key !== "Enter" && event.key !== "Escape")) return;
        handled(event);
        if (event.key === "Enter") this.#done();
        else this.#field.value = this.#given;
        left();
      },
      { signal },
    );
    this.#go = button("", () => this.#done(), signal);
    this.element.append(this.#field, this.#go);
    this.element.hidden = true;
  }

  #done(): void {
    const name = this.#field.value.trim();
    if (name) this.named(name);
  }

  /** `name` is what it is called, or a proposal; null hides the field. */
  show(name: string | null, does: string): void {
    this.element.hidden = name === null;
    // What is being typed stays while it is the same nodes that get a name.
    if (name === this.#given) return;
    this.#given = this.#field.value = name ?? "";
    this.#go.textContent = does;
    this.#field.setAttribute("aria-label", "name of the group");
  }

  /** To be written, in place of the proposal. */
  open(): void {
    if (this.element.hidden) return;
    this.#field.focus({ preventScroll: true });
    this.#field.select();
  }
}
