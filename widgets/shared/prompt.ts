// The prompt line: a plain text field that grows, with work under way as a thin line along its lower edge.
import { make } from "./dom.ts";
import { handled } from "./keys.ts";

export interface PromptEvents {
  /** Every change of the text. */
  typed(text: string): void;
  /** Enter: do it now. */
  run(text: string): void;
  /** Escape: back to the picture. */
  left(): void;
}

export class PromptField {
  readonly element: HTMLElement;
  readonly field: HTMLTextAreaElement;
  readonly #line: HTMLElement;

  constructor(label: string, live: boolean, signal: AbortSignal, events: PromptEvents) {
    this.field = make("textarea", "lk-field");
    this.field.rows = 1;
    this.field.spellcheck = false;
    this.field.autocapitalize = "off";
    this.field.dir = "auto";
    this.field.readOnly = !live;
    this.field.setAttribute("aria-label", label);
    this.field.setAttribute("autocomplete", "off");
    this.#line = make("div", "lk-progress");
    this.#line.hidden = true;
    this.element = make("div", "lk-prompt", this.field, this.#line);
    if (!live) {
      this.element.classList.add("lk-frozen");
      this.element.append(make("span", "lk-hint", "frozen: open the notebook to type"));
    }
    this.field.addEventListener(
      "input",
      () => {
        this.fit();
        events.typed(this.field.value);
      },
      { signal },
    );
    this.field.addEventListener("keydown", (event) => this.#key(event, live, events), { signal });
  }

  #key(event: KeyboardEvent, live: boolean, events: PromptEvents): void {
    // While an input method composes, Enter chooses a candidate.
    if (event.isComposing) return;
    if (event.key === "Enter" && !event.shiftKey) {
      handled(event);
      if (live) events.run(this.field.value);
    } else if (event.key === "Escape") {
      handled(event);
      events.left();
    }
  }

  get text(): string {
    return this.field.value;
  }

  set text(text: string) {
    if (this.field.value === text) return;
    this.field.value = text;
    this.fit();
  }

  /** As tall as its text, up to a third of a screen. */
  fit(): void {
    this.field.style.height = "auto";
    if (this.field.scrollHeight) this.field.style.height = `${Math.min(this.field.scrollHeight, 240)}px`;
  }

  /** Work under way: a share of 1, `null` while its length is unknown, `undefined` when there is none. */
  set progress(share: number | null | undefined) {
    this.#line.hidden = share === undefined;
    this.#line.classList.toggle("lk-unknown", share === null);
    this.#line.style.transform = typeof share === "number" ? `scaleX(${Math.max(0.02, share)})` : "";
    this.element.setAttribute("aria-busy", String(share !== undefined));
  }
}
