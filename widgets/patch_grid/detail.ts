// The detail of a cell or region: the one number, the next token before and after, and what one can do.
import { button, make, type Child } from "../shared/dom.ts";
import { effect, nats } from "../shared/numbers.ts";
import { tokenElement } from "../shared/tokens.ts";
import { MetricChoice } from "./choice.ts";
import { OddsList } from "./odds.ts";
import { columnsOf, layersOf, sizeOf, type Region } from "./region.ts";
import { metricLabel, metricUnit, type Trial } from "./spec.ts";
import { keyOf, type Patched, type Sweep } from "./sweep.ts";
import { Tried } from "./tried.ts";
import { metricValue, ofTheDifference, regionInWords } from "./words.ts";

export interface DetailEvents {
  run(): void;
  undo(): void;
  copy(): void;
  again(trial: Trial): void;
  choose(role: "answer" | "against", id: number): void;
}

export class Detail {
  readonly element = make("div", "lk-pg-detail");
  readonly #heading = make("div", "lk-pg-heading");
  readonly #big = make("div", "lk-pg-big");
  readonly #meaning = make("div", "lk-pg-meaning");
  readonly #odds = new OddsList();
  readonly #run: HTMLButtonElement;
  readonly #undo: HTMLButtonElement;
  readonly #note = make("div", "lk-pg-said");
  readonly #tried: Tried;
  readonly #metric: MetricChoice;
  #noteTimer: ReturnType<typeof setTimeout> | undefined;

  constructor(live: boolean, events: DetailEvents, signal: AbortSignal) {
    this.#run = button("Patch here", () => events.run(), signal);
    this.#undo = button("Undo", () => events.undo(), signal);
    const copy = button("Copy as Python", () => events.copy(), signal);
    this.#note.setAttribute("role", "status");
    this.#tried = new Tried((trial) => events.again(trial), signal);
    this.#metric = new MetricChoice(live, (role, id) => events.choose(role, id), signal);
    const actions = make("div", "lk-pg-actions", ...(live ? [this.#run, this.#undo] : []), copy);
    const number = make("div", "lk-pg-number", this.#big, this.#meaning);
    this.element.append(this.#heading, number, this.#odds.element, actions, this.#note, this.#tried.element, this.#metric.element);
    this.element.hidden = true;
    signal.addEventListener("abort", () => clearTimeout(this.#noteTimer));
  }

  show(sweep: Sweep, region: Region, trials: readonly Trial[], now: Trial | null, canUndo: boolean): void {
    const one = sizeOf(region) === 1;
    const patched = sweep.patched.get(keyOf(layersOf(sweep, region), columnsOf(region))) ?? null;
    this.#heading.replaceChildren(...headingOf(sweep, region));
    this.#showNumber(sweep, region, one, patched);
    this.#odds.show(sweep, patched);
    this.#run.textContent = one ? "Patch here" : "Patch the selection";
    this.#undo.disabled = !canUndo;
    this.#tried.show(sweep, trials, now);
    this.#metric.show(sweep);
    this.element.hidden = false;
  }

  #showNumber(sweep: Sweep, region: Region, one: boolean, patched: Patched | null): void {
    const [row, column] = [region.rows[0], region.columns[0]];
    const swept = one ? sweep.value(row, column) : Number.NaN;
    const exact = patched !== null || (one && sweep.isExact(row, column));
    const value = patched?.value ?? swept;
    if (Number.isNaN(value)) {
      this.#big.textContent = "–";
      this.#meaning.textContent = one ? "not known yet" : "Enter patches them together";
      return;
    }
    const share = sweep.effectOf(value);
    const { base, target, metric } = sweep.header;
    const say = (x: number): string => metricValue(metric, x);
    const unit = metricUnit(metric);
    const way = `${say(base)} → ${say(value)}${sweep.hasShare ? ` of ${say(target)}` : ""}${unit ? ` ${unit}` : ""}`;
    this.#big.textContent = `${exact ? "" : "≈ "}${sweep.hasShare ? nats(share) : effect(share)}`;
    const what = sweep.hasShare ? ofTheDifference(sweep) : `change of the ${metricLabel(metric)}`;
    this.#meaning.replaceChildren(`${what}: `, make("span", "lk-pg-way", way));
    if (!exact) this.#meaning.append(make("span", "lk-pg-estimated", "estimated from the gradient"));
  }

  /** Says what became of a click, for a moment; `text` to be copied by hand stays. */
  note(message: string, text = ""): void {
    clearTimeout(this.#noteTimer);
    this.#note.replaceChildren(message);
    if (text) {
      const field = make("textarea", "lk-pg-byhand");
      field.value = text;
      field.rows = text.split("\n").length;
      field.readOnly = true;
      field.setAttribute("aria-label", "to be copied");
      this.#note.append(field);
      field.select();
    } else {
      this.#noteTimer = setTimeout(() => this.#note.replaceChildren(), 2500);
    }
  }
}

function headingOf(sweep: Sweep, region: Region): Child[] {
  const { layers, columns, cells } = regionInWords(sweep, region);
  const state = make("span", "lk-pg-state", cells);
  if (sweep.over === "head") return [`${layers}, ${columns}`, state];
  const tokens = [...new Set(region.columns)].map((pos) => tokenElement(sweep.piece(sweep.clean[pos] ?? null)));
  const between: Child[] = tokens.length > 1 ? [tokens[0] as Child, " to ", tokens[1] as Child] : [...tokens];
  return [`${layers} at `, ...between, ` (${columns})`, state];
}
