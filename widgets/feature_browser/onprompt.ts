// The prompt's tokens in the colour of the chosen feature, and which features fire at the chosen token.
import { sequential, type Theme } from "../shared/colour.ts";
import { button, make, set, uniqueId } from "../shared/dom.ts";
import { handled } from "../shared/keys.ts";
import { whole } from "../shared/numbers.ts";
import { tokenElement, tokenText } from "../shared/tokens.ts";
import { activation } from "./histogram.ts";
import { percent } from "./list.ts";
import { nameOf, type Facts } from "./spec.ts";
import { flowing, tinted } from "./strip.ts";
import type { Fired, Words } from "./values.ts";

export interface OnPromptEvents {
  place(pos: number | null): void;
  fit(fit: boolean): void;
  feature(feature: number): void;
}

export class OnPrompt {
  readonly element = make("section", "lk-f-now");
  readonly #title = make("h4", "lk-f-subhead");
  readonly #ramp = make("span", "lk-f-ramp");
  readonly #end = make("span", "lk-f-end");
  readonly #fit: HTMLButtonElement;
  readonly #strip = make("div", "lk-f-strip");
  readonly #here = make("div", "lk-f-here");
  readonly #id = uniqueId("token");
  #shown: Fired | null = null;
  #pos: number | null = null;
  #fitted = false;

  constructor(
    private readonly facts: Facts,
    private readonly words: Words,
    private readonly events: OnPromptEvents,
    private readonly signal: AbortSignal,
  ) {
    set(this.#strip, { role: "listbox", tabindex: 0, "aria-orientation": "horizontal" });
    this.#strip.addEventListener("keydown", (event) => this.#key(event), { signal });
    this.#strip.addEventListener(
      "click",
      (event) => {
        const token = event.target instanceof Element ? event.target.closest<HTMLElement>("[data-pos]") : null;
        const pos = token ? Number(token.dataset["pos"]) : null;
        this.events.place(pos === this.#pos ? null : pos);
      },
      { signal },
    );
    this.#fit = button("", () => this.events.fit(!this.#fitted), signal);
    this.#fit.className = "lk-button lk-f-link";
    const scale = make("div", "lk-f-scale", make("span", "", "0"), this.#ramp, this.#end, this.#fit);
    this.element.append(make("div", "lk-f-head", this.#title, scale), this.#strip, this.#here);
  }

  show(fired: Fired, feature: number, most: number, fit: boolean, pos: number | null, theme: Theme): void {
    [this.#shown, this.#pos, this.#fitted] = [fired, pos, fit];
    const on = fired.on(feature);
    const own = Math.max(0, ...(on ?? []));
    const max = fit && own > 0 ? own : most;
    this.#showScale(max, fit, theme);
    const fires = (on ?? []).filter((value) => value > 0).length;
    const state = on ? (fires ? `fires on ${fires} of ${whole(fired.positions)} tokens` : "silent") : "…";
    this.#title.replaceChildren("On the prompt above, now ", make("span", "lk-f-quiet", state));
    this.#strip.setAttribute("aria-label", `${this.facts.unit} ${nameOf(this.facts, feature)} on the prompt: ${state}`);
    const tokens = fired.ids.map((id, at) => {
      const value = on?.[at] ?? 0;
      const token = tinted(this.words.piece(id), value, max, theme);
      token.classList.toggle("lk-f-at", at === pos);
      token.dataset["pos"] = String(at);
      const said = `${tokenText(this.words.piece(id))} (${at}): ${value > 0 ? activation(value) : "silent"}`;
      set(token, { role: "option", "aria-selected": String(at === pos), id: `${this.#id}-${at}`, "aria-label": said });
      return token;
    });
    this.#strip.replaceChildren(...flowing(tokens, fired.ids.map((id) => this.words.piece(id))));
    if (pos !== null && pos < fired.positions) this.#strip.setAttribute("aria-activedescendant", `${this.#id}-${pos}`);
    else this.#strip.removeAttribute("aria-activedescendant");
    this.#showHere(fired, feature, pos, on);
  }

  /** The scale's ends, in the activation's own units. */
  #showScale(max: number, fit: boolean, theme: Theme): void {
    const { fill } = sequential(theme);
    this.#ramp.style.background = `linear-gradient(to right, ${[0, 24, 48, 72, 96].map((step) => fill[step]).join(", ")})`;
    this.#end.textContent = `${activation(max)} ${fit ? "largest here" : "its maximum"}`;
    this.#fit.textContent = fit ? "to its maximum" : "fit";
    this.#fit.setAttribute("aria-label", fit ? "colours up to the feature's maximum" : "fit the colours to the prompt");
  }

  #showHere(fired: Fired, feature: number, pos: number | null, on: readonly number[] | undefined): void {
    if (pos === null || pos >= fired.positions) {
      this.#here.replaceChildren(make("span", "lk-f-quiet", "choose a token to see what fires on it"));
      return;
    }
    const strongest = fired.top(pos).map(({ id, value }) => {
      const link = button(nameOf(this.facts, id), () => this.events.feature(id), this.signal);
      link.className = "lk-button lk-f-link";
      link.classList.toggle("lk-f-same", id === feature);
      link.title = `${percent(value)} of its maximum`;
      return make("span", "lk-f-chip", link, make("span", "lk-f-quiet", percent(value)));
    });
    const count = fired.counts[pos] ?? 0;
    const own = on?.[pos] ? ` · this one ${activation(on[pos] as number)}` : "";
    const what = `${whole(count)} ${this.facts.unit}${count === 1 ? "" : "s"} fire${count === 1 ? "s" : ""}${own}`;
    this.#here.replaceChildren("at ", tokenElement(this.words.piece(fired.ids[pos])), make("span", "lk-f-quiet", what), ...strongest);
  }

  /** Arrows walk the tokens. */
  #key(event: KeyboardEvent): void {
    const last = (this.#shown?.positions ?? 0) - 1;
    if (last < 0 || event.ctrlKey || event.metaKey || event.altKey || event.shiftKey) return;
    const at = this.#pos ?? (event.key === "ArrowLeft" ? last + 1 : -1);
    const to = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: last }[event.key];
    if (to !== undefined) this.events.place(Math.min(last, Math.max(0, to)));
    else if (event.key === "Escape" && this.#pos !== null) this.events.place(null);
    else return;
    handled(event);
  }
}
