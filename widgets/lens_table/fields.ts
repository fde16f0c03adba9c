// The prompt's field, and the second prompt's below it where two are compared.
import { button } from "../shared/dom.ts";
import { PromptField } from "../shared/prompt.ts";
import { compares } from "./asking.ts";
import type { Spec } from "./spec.ts";

export interface FieldEvents {
  typed(patch: Partial<Spec>): void;
  run(patch: Partial<Spec>): void;
  left(): void;
  /** Let the model write on. */
  write(): void;
}

export class Fields {
  readonly #prompt: PromptField;
  readonly #other: PromptField;

  constructor(
    place: HTMLElement,
    live: boolean,
    signal: AbortSignal,
    events: FieldEvents,
  ) {
    const field = (name: string, key: "prompt" | "other"): PromptField =>
      new PromptField(name, live, signal, {
        // What was written is no continuation of another text.
        typed: (text) => events.typed({ [key]: text, written: [] }),
        run: (text) => events.run({ [key]: text }),
        left: () => events.left(),
      });
    [this.#prompt, this.#other] = [field("prompt", "prompt"), field("second prompt", "other")];
    place.append(this.#prompt.element);
    if (!live) return;
    const write = button("Write on", () => events.write(), signal);
    write.classList.add("lk-write");
    place.append(write);
  }

  fill({ prompt, other }: Spec): void {
    [this.#prompt.text, this.#other.text] = [prompt, other ?? ""];
  }

  /** Not only hidden: a table of one prompt has one field. */
  show(spec: Spec): void {
    const two = compares(spec) && spec.other !== null;
    if (two === this.#other.element.isConnected) return;
    if (two) this.#prompt.element.after(this.#other.element);
    else this.#other.element.remove();
    this.fit();
  }

  typeOther(): void {
    this.#other.field.focus();
  }

  fit(): void {
    this.#prompt.fit();
    if (this.#other.element.isConnected) this.#other.fit();
  }

  /** As `PromptField.progress`. */
  set progress(share: number | null | undefined) {
    [this.#prompt.progress, this.#other.progress] = [share, share];
  }

  set wrong(wrong: boolean) {
    for (const { field } of [this.#prompt, this.#other]) {
      if (wrong) field.setAttribute("aria-invalid", "true");
      else field.removeAttribute("aria-invalid");
    }
  }
}
