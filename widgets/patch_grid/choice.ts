// The metric's tokens, chosen by clicking among what the two prompts would say next.
import { make, set, uniqueId } from "../shared/dom.ts";
import { probability } from "../shared/numbers.ts";
import { tokenElement, tokenText } from "../shared/tokens.ts";
import { metricLabel } from "./spec.ts";
import type { Sweep } from "./sweep.ts";

type Role = "answer" | "against";

export class MetricChoice {
  readonly element = make("div", "lk-pg-metric");
  readonly #title = make("div", "lk-pg-subhead");
  readonly #table = make("div", "lk-pg-choices");
  readonly #name = uniqueId("metric");
  #shown: Sweep | null = null;

  constructor(
    private readonly live: boolean,
    private readonly chosen: (role: Role, id: number) => void,
    private readonly signal: AbortSignal,
  ) {
    set(this.#table, { role: "group", "aria-label": "tokens of the metric" });
    this.element.append(this.#title, this.#table);
  }

  show(sweep: Sweep): void {
    if (sweep === this.#shown) return;
    this.#shown = sweep;
    this.#title.textContent = `Metric: ${metricLabel(sweep.header.metric)} at the ${sweep.header.read === sweep.positions - 1 ? "last position" : `position ${sweep.header.read}`}`;
    const heads = ["next token", "clean", "corrupt", "answer", "against"].map((name) => make("span", "lk-pg-choice-head", name));
    const rows = sweep.next.map(({ id, before, after }) =>
      make(
        "div",
        "lk-pg-choice",
        tokenElement(sweep.piece(id)),
        make("span", "lk-pg-numbers", probability(before)),
        make("span", "lk-pg-numbers", probability(after)),
        this.#radio(sweep, "answer", id),
        this.#radio(sweep, "against", id),
      ),
    );
    this.#table.replaceChildren(make("div", "lk-pg-choice", ...heads), ...rows);
  }

  #radio(sweep: Sweep, role: Role, id: number): HTMLElement {
    const input = make("input", `lk-pg-radio lk-pg-${role}`);
    input.type = "radio";
    input.name = `${this.#name}-${role}`;
    input.checked = sweep.header[role] === id;
    input.disabled = !this.live;
    input.setAttribute("aria-label", `${role} ${tokenText(sweep.piece(id))}`);
    input.addEventListener("change", () => this.chosen(role, id), { signal: this.signal });
    // The arrows move between the tokens: they are not for the notebook.
    input.addEventListener("keydown", (event) => event.key.startsWith("Arrow") && event.stopPropagation(), { signal: this.signal });
    return make("label", "lk-pg-pick", input);
  }
}
