// The lens table: the spec, the source and the parts, put together.
import type { AnyModel } from "@anywidget/types";
import { copyText } from "../shared/clipboard.ts";
import { sequential } from "../shared/colour.ts";
import { Frame } from "../shared/frame.ts";
import { History } from "../shared/history.ts";
import { handled, type Shortcut } from "../shared/keys.ts";
import { milliseconds, whole } from "../shared/numbers.ts";
import { PromptField } from "../shared/prompt.ts";
import { Segmented } from "../shared/segmented.ts";
import { Detail } from "./detail.ts";
import { sameCell, type Cell } from "./grid.ts";
import { Legend } from "./legend.ts";
import { changedFields, readSpec, type Facts, type Order, type Spec, type StatisticName } from "./spec.ts";
import { Stage } from "./stage.ts";
import { endsOf, fittedEnds, STATISTICS, statisticOf } from "./statistic.ts";
import { TableSource, type Question } from "./source.ts";
import type { Table } from "./table.ts";
import { walk } from "./walk.ts";

export type Model = AnyModel<{ spec: Spec; facts: Facts }>;

const MOVES: Shortcut = { caps: ["← ↑ ↓ →"], does: "cell", foot: true };
const MORE: readonly Shortcut[] = [
  { caps: ["Home", "End"], does: "first, last token" },
  { caps: ["PgUp", "PgDn"], does: "ten layers" },
  { caps: ["Enter"], does: "pin", foot: true },
  { caps: ["Esc"], does: "unpin", foot: true },
];
const LIVE: readonly Shortcut[] = [
  { caps: ["T"], does: "make target", foot: true },
  { caps: ["/"], does: "prompt", foot: true },
];
const LAST: readonly Shortcut[] = [
  { caps: ["Ctrl Z"], does: "undo" },
  { caps: ["Ctrl Shift Z"], does: "redo" },
  { caps: ["?"], does: "all keys", foot: true },
];

export class LensTableView {
  readonly #model: Model;
  readonly #facts: Facts;
  readonly #frame: Frame;
  readonly #stage: Stage;
  readonly #detail: Detail;
  readonly #legend: Legend;
  readonly #prompt: PromptField;
  readonly #source: TableSource;
  readonly #history = new History<Spec>();
  readonly #statistics: Segmented<StatisticName>;
  readonly #orders: Segmented<Order>;
  readonly #lenses: Segmented<string>;
  #spec: Spec;
  #hovered: Cell | null = null;
  /** Where the keys have gone, while they are used. */
  #cursor: Cell | null = null;

  constructor(model: Model, el: HTMLElement, signal: AbortSignal) {
    this.#model = model;
    this.#facts = model.get("facts");
    this.#spec = readSpec(model.get("spec"));
    const { live, title, lenses } = this.#facts;

    this.#frame = new Frame(title, [MOVES, ...MORE, ...(live ? LIVE : []), ...LAST], signal, {
      themed: () => this.#repaint(),
      resized: () => this.#resized(),
      undo: () => this.#restore(this.#history.undo(this.#spec)),
      redo: () => this.#restore(this.#history.redo(this.#spec)),
    });
    this.#frame.about = `${this.#facts.model} · ${this.#facts.layers} layers`;
    this.#lenses = new Segmented(
      "lens",
      lenses.map((lens) => ({ value: lens, label: lens })),
      signal,
      (lens) => this.#change({ lens }),
    );
    this.#statistics = new Segmented("colour", STATISTICS.map(({ name, label }) => ({ value: name, label })), signal, (statistic) =>
      this.#change({ statistic, scale: null }),
    );
    const orders = [
      { value: "last-first", label: "last on top" },
      { value: "first-first", label: "first on top" },
    ] as const;
    this.#orders = new Segmented<Order>("order", orders, signal, (order) => this.#change({ order }));
    if (lenses.length > 1) this.#frame.switches.append(this.#lenses.element);
    this.#frame.switches.append(this.#statistics.element, this.#orders.element);

    this.#prompt = new PromptField("prompt", live, signal, {
      typed: (text) => this.#source.readSoon(() => this.#change({ prompt: text })),
      run: (text) => this.#change({ prompt: text }, true),
      left: () => this.#stage.grid.element.focus(),
    });
    this.#frame.prompts.append(this.#prompt.element);

    this.#stage = new Stage(
      {
        hovered: (cell) => this.#hover(cell),
        clicked: ({ row, pos }) => this.#pin({ row: row ?? this.#active().row, pos: pos ?? this.#active().pos }),
        pressed: (event) => this.#key(event),
        left: () => this.#moveTo(null),
      },
      signal,
    );
    this.#stage.grid.reserve(this.#facts.layers);
    this.#legend = new Legend(signal, () => this.#fit());
    this.#frame.picture.append(this.#stage.scroller, this.#legend.element);

    this.#detail = new Detail(live, { makeTarget: (id) => this.#makeTarget(id), clearTarget: () => this.#change({ target: null }), copy: () => void this.#copy() }, signal);
    this.#frame.detail.append(this.#detail.element);

    this.#source = new TableSource(
      model,
      {
        table: (table, from) => this.#show(table, from),
        progress: (share) => (this.#prompt.progress = share),
        error: (text) => this.#fail(text),
        silent: () => (this.#frame.facts = "waiting for the kernel…"),
      },
      signal,
    );
    const changed = (): void => this.#changedOutside();
    model.on("change:spec", changed);
    signal.addEventListener("abort", () => model.off("change:spec", changed));
    el.append(this.#frame.root);
    this.#frame.theme.look();
    this.#prompt.text = this.#spec.prompt;
    this.#apply(["statistic", "order", "lens", "scale"]);
    this.#source.read(this.#question());
  }

  #question(): Question {
    const { prompt, target, lens } = this.#spec;
    return { prompt, target, lens };
  }

  // --- the spec, from here, from Python and from the history

  /** A change made here: noted in the history, sent to Python, drawn. `again` asks even where nothing changed. */
  #change(patch: Partial<Spec>, again = false): void {
    const spec = { ...this.#spec, ...patch };
    const fields = changedFields(this.#spec, spec);
    if (fields.length) this.#history.record(this.#spec, fields);
    this.#write(spec, fields);
    if (again || this.#asks(fields)) this.#source.read(this.#question());
  }

  /** Whether a change of these fields needs another table. */
  #asks(fields: readonly (keyof Spec)[]): boolean {
    const matters = fields.some((field) => field === "prompt" || field === "target" || field === "lens");
    return matters && this.#facts.live && !this.#source.asked(this.#question());
  }

  #write(spec: Spec, fields: readonly (keyof Spec)[]): void {
    if (!fields.length) return;
    this.#spec = spec;
    this.#model.set("spec", spec);
    this.#model.save_changes();
    this.#apply(fields);
  }

  #restore(spec: Spec | undefined): void {
    if (!spec) return;
    const fields = changedFields(this.#spec, spec);
    this.#write(spec, fields);
    this.#prompt.text = spec.prompt;
    if (this.#asks(fields)) this.#source.read(this.#question());
  }

  /** Python, or another view of the same widget, has changed the spec. */
  #changedOutside(): void {
    const spec = readSpec(this.#model.get("spec"));
    const fields = changedFields(this.#spec, spec);
    if (!fields.length) return;
    this.#spec = spec;
    if (fields.includes("prompt") && !this.#source.typing) this.#prompt.text = spec.prompt;
    if (fields.includes("selection")) this.#cursor = null;
    this.#apply(fields);
    if (fields.includes("selection") && spec.selection && this.#source.table) this.#stage.reveal(this.#active());
    if (this.#asks(fields) && !this.#source.typing) this.#source.readAfterOthers(() => this.#question());
  }

  /** Draws what a change of these fields touches. */
  #apply(fields: readonly (keyof Spec)[]): void {
    const spec = this.#spec;
    this.#statistics.value = spec.statistic;
    this.#orders.value = spec.order;
    this.#lenses.value = spec.lens;
    if (fields.includes("order")) this.#stage.grid.order = spec.order;
    if (fields.includes("statistic") || fields.includes("scale") || fields.includes("order")) this.#repaint();
    else this.#look();
  }

  // --- drawing

  #show(table: Table, from: number): void {
    this.#frame.error = null;
    this.#prompt.field.removeAttribute("aria-invalid");
    const { ms, recomputed } = table.message;
    const done = `${whole(recomputed)} of ${whole(table.positions)} positions recomputed`;
    const facts = [this.#facts.dtype, this.#facts.device];
    this.#frame.facts = [...facts, ...(this.#facts.live ? [milliseconds(ms), done] : [])].join(" · ");
    if (this.#hovered && !this.#holds(this.#hovered)) this.#hovered = null;
    if (this.#cursor && !this.#holds(this.#cursor)) this.#cursor = null;
    const first = !this.#detail.element.isConnected || this.#detail.element.hidden;
    this.#stage.show(table, from);
    this.#look();
    if (first && this.#pinned()) this.#stage.reveal(this.#active());
  }

  #fail(text: string): void {
    this.#frame.error = text;
    this.#prompt.field.setAttribute("aria-invalid", "true");
  }

  #repaint(): void {
    // The frame tells its theme while it is being made, before there is anything to paint.
    if (!this.#source) return;
    const statistic = statisticOf(this.#spec.statistic);
    const ends = endsOf(this.#spec, this.#facts);
    const scale = sequential(this.#frame.theme.theme);
    this.#stage.grid.paint = { statistic, ends, scale };
    this.#legend.show(statistic, ends, scale, this.#spec.scale !== null);
    this.#stage.draw();
    this.#look();
  }

  #resized(): void {
    this.#prompt.fit();
    this.#stage.resized();
    this.#look();
  }

  /** Brings marks, detail and profile in step with the active cell. */
  #look(): void {
    const { table } = this.#source;
    if (!table?.positions) return;
    const [active, pinned] = [this.#active(), this.#pinned()];
    this.#stage.grid.mark(active, pinned);
    this.#detail.show(table, active, sameCell(active, pinned));
    const tiny = this.#frame.root.classList.contains("lk-tiny");
    const { grid, profile } = this.#stage;
    profile.show(table, active, statisticOf(this.#spec.statistic), this.#facts, (row) => grid.lineOf(row), tiny);
    this.#stage.peek(this.#hovered);
  }

  // --- the cells that count

  #holds(cell: Cell): boolean {
    const { table } = this.#source;
    return table !== null && cell.pos >= 0 && cell.pos < table.positions && cell.row >= 0 && cell.row < table.rows;
  }

  #pinned(): Cell | null {
    const { selection } = this.#spec;
    const cell = selection && { row: this.#source.table?.rowOf(selection.layer) ?? -1, pos: selection.pos };
    return cell && this.#holds(cell) ? cell : null;
  }

  /** The cell that is looked at: under the pointer, under the keys, pinned, or the model's prediction at the end. */
  #active(): Cell {
    const { table } = this.#source;
    const end = { row: (table?.rows ?? 1) - 1, pos: (table?.positions ?? 1) - 1 };
    return this.#hovered ?? this.#cursor ?? this.#pinned() ?? end;
  }

  #hover(cell: Cell | null): void {
    this.#hovered = cell;
    this.#look();
  }

  #moveTo(cell: Cell | null): void {
    this.#cursor = cell;
    if (cell) {
      this.#hovered = null;
      this.#stage.reveal(cell);
    }
    this.#look();
  }

  #pin(cell: Cell): void {
    const layer = this.#source.table?.layers[cell.row];
    if (layer === undefined) return;
    this.#cursor = cell;
    this.#change({ selection: { layer, pos: cell.pos } });
    this.#look();
  }

  // --- what one can do

  #key(event: KeyboardEvent): void {
    const { table } = this.#source;
    if (!table?.positions) return;
    const { grid } = this.#stage;
    const to = event.altKey || event.shiftKey ? null : walk(event, this.#active(), table, (row) => grid.lineOf(row));
    const plain = !event.ctrlKey && !event.metaKey && !event.altKey;
    if (to) this.#moveTo(to);
    else if (event.key === "Enter" && plain && !event.shiftKey) this.#pin(this.#active());
    else if (event.key === "Escape") this.#escape();
    else if (event.key.toLowerCase() === "t" && plain && this.#facts.live) {
      const { pos, row } = this.#active();
      this.#makeTarget(table.topId(pos, row));
    } else return;
    handled(event);
  }

  #escape(): void {
    if (!this.#frame.closeKeys()) this.#change({ selection: null });
  }

  #makeTarget(id: number): void {
    // After an error the same target may be asked for again.
    this.#change({ target: id }, this.#spec.target === id && !this.#source.asked(this.#question()));
  }

  #fit(): void {
    const { table } = this.#source;
    if (this.#spec.scale) this.#change({ scale: null });
    else if (table) this.#change({ scale: fittedEnds(table, statisticOf(this.#spec.statistic)) });
  }

  async #copy(): Promise<void> {
    const { table } = this.#source;
    if (!table) return;
    const { row, pos } = this.#active();
    // JSON's escapes are Python's, so this is a Python string.
    const target = table.message.target === null ? "" : `, target=${table.message.target}`;
    const code = `lens.read(${JSON.stringify(table.message.prompt)}${target}).tokens(layer=${table.layers[row]}, pos=${pos})`;
    if (await copyText(code, this.#frame.root)) this.#detail.note("Copied.");
    else this.#detail.note("To be copied by hand:", code);
  }
}
