// The two prompts' fields: each lies over its line of tokens, and is seen while it is typed in.
import { make } from "../shared/dom.ts";
import { PromptField } from "../shared/prompt.ts";

interface Prompts {
  readonly clean: string;
  readonly corrupt: string;
}

export interface PromptPairEvents {
  typed(prompts: Prompts): void;
  run(prompts: Prompts): void;
  left(): void;
}

const NARROWEST = 440;

export class PromptPair {
  readonly element = make("div", "lk-pg-fields");
  readonly #clean: PromptField;
  readonly #corrupt: PromptField;
  #shown: Prompts | null = null;

  constructor(live: boolean, signal: AbortSignal, events: PromptPairEvents) {
    const field = (name: string): PromptField =>
      new PromptField(`${name} prompt`, live, signal, {
        typed: () => {
          this.#open();
          events.typed(this.#texts());
        },
        run: () => events.run(this.#texts()),
        left: () => events.left(),
      });
    [this.#clean, this.#corrupt] = [field("clean"), field("corrupt")];
    this.element.append(this.#clean.element, this.#corrupt.element);
    for (const { element, field } of [this.#clean, this.#corrupt]) {
      // A field that is not seen has no height of its own to take.
      element.addEventListener("focusin", () => (field.style.height = `${field.scrollHeight}px`), { signal });
      element.addEventListener("focusout", () => this.#open(), { signal });
    }
  }

  #texts(): Prompts {
    return { clean: this.#clean.text, corrupt: this.#corrupt.text };
  }

  /** A text that the picture does not show stays in sight: nobody may wonder which prompt an error is about. */
  #open(): void {
    const shown = this.#shown;
    this.#clean.element.classList.toggle("lk-pg-open", shown !== null && shown.clean !== this.#clean.text);
    this.#corrupt.element.classList.toggle("lk-pg-open", shown !== null && shown.corrupt !== this.#corrupt.text);
  }

  /** The prompts of the spec. */
  show({ clean, corrupt }: Prompts): void {
    [this.#clean.text, this.#corrupt.text] = [clean, corrupt];
    this.#open();
  }

  /** The prompts of the picture. */
  set shown(prompts: Prompts) {
    this.#shown = prompts;
    this.#open();
  }

  set wrong(wrong: boolean) {
    for (const { field } of [this.#clean, this.#corrupt]) field.setAttribute("aria-invalid", String(wrong));
  }

  set width(width: number) {
    this.element.style.width = `${Math.max(NARROWEST, width)}px`;
  }

  edit(which: "clean" | "corrupt"): void {
    const { field } = which === "clean" ? this.#clean : this.#corrupt;
    field.focus();
    field.setSelectionRange(field.value.length, field.value.length);
  }
}
