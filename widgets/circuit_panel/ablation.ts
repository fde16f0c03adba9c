// What becomes of the answer without some features: as measured, as the graph predicts, and what random features do.
import { divergence } from "../feature_browser/histogram.ts";
import { button, make, type Child } from "../shared/dom.ts";
import { probability, signed } from "../shared/numbers.ts";
import { tokenElement, tokenText, type Piece } from "../shared/tokens.ts";
import type { AblatedMessage, Placebo } from "../circuit_graph/messages.ts";
import type { Groups } from "../circuit_graph/spec.ts";
import type { MakePanel, Taken } from "./contract.ts";

const LINES = 6;

export class Ablation {
  readonly element = make("section", "lk-c-ablation");
  readonly #title = make("h4", "lk-f-subhead");
  readonly #restore: HTMLButtonElement;
  readonly #placebo = make("input", "");
  readonly #beside: HTMLElement;
  readonly #result = make("div", "lk-f-result");

  constructor(change: Parameters<MakePanel>[0], signal: AbortSignal) {
    this.#restore = button("As it is", () => change({ ablated: [] }), signal);
    this.#result.setAttribute("aria-live", "polite");
    this.#placebo.type = "checkbox";
    this.#placebo.addEventListener("change", () => change({ placebo: this.#placebo.checked }), { signal });
    this.#beside = make("label", "lk-c-beside", this.#placebo, "beside random features of the same size");
    this.element.append(make("div", "lk-f-head", this.#title, this.#restore), this.#result, this.#beside);
  }

  show({ nodes, placebo, groups, answer, working, live }: Taken): void {
    this.element.hidden = nodes.length === 0 || (!live && answer === null);
    if (this.element.hidden) return;
    this.#title.replaceChildren("Without ", groupOf(nodes, groups) ?? namesOf(nodes));
    this.#title.title = nodes.join(", ");
    this.#restore.hidden = this.#beside.hidden = !live;
    this.#placebo.checked = placebo;
    this.#result.classList.toggle("lk-f-stale", working);
    this.#result.replaceChildren(...(answer ? resultOf(answer) : working ? [make("div", "lk-f-quiet", "asking the model…")] : []));
  }
}

/** The name of the group of which these are all the features, as something of its own kind among words. */
function groupOf(nodes: readonly string[], groups: Groups): HTMLElement | undefined {
  const features = (of: readonly string[]): string => of.filter((node) => /^\d+\.\d/.test(node)).sort().join();
  const found = Object.entries(groups).find(([, of]) => features(of) === features(nodes));
  return found && make("span", "lk-c-group", found[0]);
}

const namesOf = (nodes: readonly string[]): string =>
  nodes.length > 3 ? `${nodes.slice(0, 2).join(", ")} and ${nodes.length - 2} more` : nodes.join(", ");

function resultOf(answer: AblatedMessage): Child[] {
  const after = new Map(answer.after.map(([piece, p]) => [keyOf(piece), p]));
  const odds = answer.before.slice(0, LINES).map(([piece, p]) => oddsLine(piece, p, after.get(keyOf(piece)) ?? 0));
  const key = make("div", "lk-f-key", swatch("was"), "as it is", swatch("is"), "without");
  return [make("h4", "lk-f-subhead", "Next token"), make("ol", "lk-f-lines lk-c-odds", ...odds), key, effectsOf(answer), verdictOf(answer)];
}

const keyOf = (piece: Piece): string => JSON.stringify(piece);
const swatch = (kind: string): HTMLElement => make("span", `lk-f-swatch lk-f-swatch-${kind}`);

function oddsLine(piece: Piece, before: number, after: number): HTMLElement {
  const bar = (name: string, value: number): HTMLElement => {
    const made = make("span", name);
    made.style.width = `${100 * Math.min(1, Math.max(0, value))}%`;
    return made;
  };
  const track = make("span", "lk-f-track lk-f-two", bar("lk-f-was", before), bar("lk-f-is", after));
  return make("li", "lk-f-line", tokenElement(piece), track, make("span", "lk-f-number", `${probability(before)} → ${probability(after)}`));
}

const HEADS: Readonly<Record<string, string>> = {
  graph: "as the graph's own edges predict",
  model: "as measured in the model, attention free",
  random: "the mean and standard deviation of draws of as many random features",
};

/** Of each target: by how much its value changes. */
function effectsOf({ effects, predicted, placebo }: AblatedMessage): HTMLElement {
  const head = make("tr", "", ...["target", "graph", "model", ...(placebo ? ["random"] : [])].map((name) => heading(name, "col", HEADS[name])));
  const rows = effects.map(({ label, before, after }, i) =>
    make(
      "tr",
      "",
      heading(tokenElement(label), "row", tokenText(label)),
      make("td", "", signed(predicted[i] ?? Number.NaN)),
      make("td", "lk-c-measured", signed(after - before)),
      ...(placebo ? [make("td", "", spreadOf(placebo, i))] : []),
    ),
  );
  const caption = make("caption", "", "Change of the target");
  return make("table", "lk-c-effects", caption, make("thead", "", head), make("tbody", "", ...rows));
}

function heading(name: Child, scope = "col", title = ""): HTMLElement {
  const made = make("th", "", name);
  made.scope = scope;
  if (title) made.title = title;
  return made;
}

function spreadOf({ mean, spread }: Placebo, i: number): string {
  const around = spread?.[i];
  return `${signed(mean[i] ?? Number.NaN)}${around === undefined ? "" : ` ± ${around.toFixed(2)}`}`;
}

function verdictOf({ kl, placebo }: AblatedMessage): HTMLElement {
  const say = (value: number | null): string => (value === null ? "∞" : divergence(value));
  const moved: Child[] = ["the prediction moves by ", make("b", "", say(kl)), " nats"];
  if (placebo) {
    const around = placebo.kl_spread === null ? "" : ` ± ${divergence(placebo.kl_spread)}`;
    moved.push(" · by as many random features ", make("b", "", say(placebo.kl), around), ` (${placebo.n} draws)`);
  }
  return make("div", "lk-f-verdict", ...moved);
}
