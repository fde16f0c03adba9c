// The lens table: the spec, the source and the parts, put together.
import type { AnyModel } from "@anywidget/types";
import { copyText } from "../shared/clipboard.ts";
import { Frame } from "../shared/frame.ts";
import { History } from "../shared/history.ts";
import { handled } from "../shared/keys.ts";
import { Linked, type Fields as Followed } from "../shared/linked.ts";
import { milliseconds, whole } from "../shared/numbers.ts";
import { carried, keepingItsCell, questionOf, sideNames, siteOf, withLens, withoutTargets, withView } from "./asking.ts";
import { coloursOf, fitted } from "./colours.ts";
import { copied } from "./copied.ts";
import { Detail } from "./detail.ts";
import { Fields } from "./fields.ts";
import { lookedAt } from "./cells.ts";
import { sameCell, type Cell } from "./grid.ts";
import { Legend } from "./legend.ts";
import { PairDetail } from "./pair_detail.ts";
import { Pictures } from "./pictures.ts";
import { shortcuts } from "./shortcuts.ts";
import { changedFields, readSpec, type Facts, type Selection, type Spec, type View } from "./spec.ts";
import { statisticOf } from "./statistic.ts";
import { TableSource, type Answer } from "./source.ts";
import { Switches } from "./switches.ts";
import { walk } from "./walk.ts";

export type Model = AnyModel<{ spec: Spec; facts: Facts }>;

/** Two grids and the detail beside them. */
const ROOM_FOR_ALL = 1380;

/** What another answer is needed for, and what the colours follow. */
const ASKING: ReadonlySet<keyof Spec> = new Set(["prompt", "target", "versus", "lens", "second", "other", "view"]);
const PAINTING: ReadonlySet<keyof Spec> = new Set(["statistic", "difference", "scale", "order", "view"]);

export class LensTableView {
  readonly #model: Model;
  readonly #facts: Facts;
  readonly #frame: Frame;
  readonly #pictures: Pictures;
  readonly #detail: Detail;
  readonly #pair: PairDetail;
  readonly #legend: Legend;
  readonly #fields: Fields;
  readonly #source: TableSource;
  readonly #linked: Linked;
  readonly #history = new History<Spec>();
  readonly #switches: Switches;
  #spec: Spec;
  /** The second prompt that was compared last, while a lens is compared. */
  #lastOther: string | null = null;
  #hovered: Cell | null = null;
  /** Whether the next answer is to be scrolled to what is chosen in it. */
  #unseen = true;
  /** Where the keys have gone, while they are used. */
  #cursor: Cell | null = null;

  constructor(model: Model, el: HTMLElement, signal: AbortSignal) {
    this.#model = model;
    this.#facts = model.get("facts");
    this.#spec = readSpec(model.get("spec"));
    const { live, title } = this.#facts;

    this.#frame = new Frame(title, shortcuts(live), signal, {
      themed: () => this.#repaint(),
      resized: () => this.#resized(),
      undo: () => this.#restore(this.#history.undo(this.#spec)),
      redo: () => this.#restore(this.#history.redo(this.#spec)),
    });
    this.#switches = new Switches(this.#facts, this.#spec, signal, {
      lens: (lens) => this.#change(withLens(this.#spec, lens)),
      view: (view) => this.#chooseView(view),
      beside: (lens) => this.#chooseBeside(lens),
      changed: (patch) => this.#change(patch),
    });
    this.#frame.switches.append(...this.#switches.elements);

    this.#fields = new Fields(this.#frame.prompts, live, signal, {
      typed: (patch) => this.#source.readSoon(() => this.#change(patch)),
      run: (patch) => this.#change(patch, true),
      left: () => this.#pictures.focus(),
    });

    this.#pictures = new Pictures(
      {
        hovered: (cell) => this.#hover(cell),
        clicked: ({ row, pos }) => this.#pin({ row: row ?? this.#active().row, pos: pos ?? this.#active().pos }),
        pressed: (event) => this.#key(event),
        left: () => this.#moveTo(null),
      },
      signal,
      this.#facts.layers,
    );
    this.#legend = new Legend(signal, () => this.#fit());
    this.#frame.picture.append(this.#pictures.element, this.#legend.element);

    const events = {
      makeTarget: (id: number) => this.#makeTarget(id),
      makeVersus: (id: number) => this.#change({ versus: id }),
      clearTarget: () => this.#change(withoutTargets(this.#spec)),
      copy: () => void this.#copy(),
    };
    this.#detail = new Detail(live, events, signal);
    this.#pair = new PairDetail(live, events, signal);
    this.#frame.detail.append(this.#detail.element);

    this.#source = new TableSource(
      model,
      {
        table: (answer, from) => this.#show(answer, from),
        progress: (share) => (this.#fields.progress = share),
        error: (text) => this.#fail(text),
        silent: () => (this.#frame.facts = "waiting for the kernel…"),
      },
      signal,
    );
    this.#linked = new Linked(model, signal, (fields) => this.#follow(fields));
    const changed = (): void => this.#changedOutside();
    model.on("change:spec", changed);
    signal.addEventListener("abort", () => model.off("change:spec", changed));
    el.append(this.#frame.root);
    this.#frame.theme.look();
    this.#fields.fill(this.#spec);
    this.#apply(["statistic", "order", "lens", "scale"]);
    this.#source.read(questionOf(this.#spec));
  }

  // --- the spec, from here, from Python and from the history

  /** A change made here: noted in the history, sent to Python, drawn. `again` asks even where nothing changed. */
  #change(patch: Partial<Spec>, again = false): void {
    const spec = keepingItsCell(this.#spec, { ...this.#spec, ...patch }, this.#facts);
    const fields = changedFields(this.#spec, spec);
    if (fields.length) this.#history.record(this.#spec, fields);
    this.#write(spec, fields);
    if (fields.includes("selection")) this.#linked.announce(spec.selection);
    if (again || this.#asks(fields)) this.#source.read(questionOf(this.#spec));
  }

  /** Whether a change of these fields needs another table. */
  #asks(fields: readonly (keyof Spec)[]): boolean {
    const matters = fields.some((field) => ASKING.has(field));
    return matters && this.#facts.live && !this.#answered() && !this.#source.asked(questionOf(this.#spec));
  }

  /** Whether what is here shows it: of two readings the first can be shown alone. */
  #answered(): boolean {
    const message = this.#source.answer?.message;
    if (!message || this.#spec.view !== "one" || siteOf(this.#spec, this.#facts) !== message.site) return false;
    const { prompt, target, versus, lens } = this.#spec;
    const same = message.prompt === prompt && message.target === target && message.versus === versus && message.lens === lens;
    return same && this.#source.asked(message);
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
    if (fields.includes("selection")) this.#linked.announce(spec.selection);
    this.#fields.fill(this.#spec);
    if (this.#asks(fields)) this.#source.read(questionOf(this.#spec));
  }

  /** Python, or another view of the same widget, has changed the spec. */
  #changedOutside(): void {
    const spec = readSpec(this.#model.get("spec"));
    const fields = changedFields(this.#spec, spec);
    if (!fields.length) return;
    this.#spec = spec;
    if (!this.#source.typing) this.#fields.fill(this.#spec);
    if (fields.includes("selection")) this.#cursor = null;
    this.#apply(fields);
    if (fields.includes("selection") && spec.selection && this.#source.table) this.#pictures.reveal(this.#active());
    this.#unseen ||= fields.includes("selection");
    if (this.#asks(fields) && !this.#source.typing) this.#source.readAfterOthers(() => questionOf(this.#spec));
  }

  /** Chooses what a linked view chose, as far as it is in this table. */
  #follow({ layer, pos }: Followed): Selection | null {
    const { table } = this.#source;
    const takesLayer = typeof layer === "number" && (table?.rowOf(layer) ?? -1) >= 0;
    const takesPos = typeof pos === "number" && pos >= 0 && pos < (table?.positions ?? 0);
    if (!table || !(takesLayer || takesPos)) return null;
    const chosen = this.#spec.selection ?? { layer: table.layers.at(-1) as number, pos: table.positions - 1 };
    const spec = { ...this.#spec, selection: { layer: takesLayer ? layer : chosen.layer, pos: takesPos ? pos : chosen.pos } };
    this.#cursor = null;
    this.#write(spec, changedFields(this.#spec, spec));
    this.#pictures.reveal(this.#active());
    return spec.selection;
  }

  /** Draws what a change of these fields touches. */
  #apply(fields: readonly (keyof Spec)[]): void {
    const spec = this.#spec;
    this.#switches.show(spec);
    this.#fields.show(spec);
    if (fields.includes("order")) this.#pictures.order = spec.order;
    const { answer } = this.#source;
    // What is here may be enough for the view that is asked for now.
    const shows = answer && (spec.view === "one" || this.#source.asked(questionOf(spec)));
    if (fields.includes("view") && shows) {
      this.#pictures.show(answer, spec.view, 0);
      this.#viewed();
    }
    if (fields.some((field) => PAINTING.has(field))) this.#repaint();
    else this.#look();
  }

  // --- drawing

  #show(answer: Answer, from: number): void {
    const { message, first } = answer;
    this.#frame.error = null;
    this.#fields.wrong = false;
    const done = `${whole(message.recomputed)} of ${whole(first.positions * (message.other === null ? 1 : 2))} positions recomputed`;
    const facts = [this.#facts.dtype, this.#facts.device];
    this.#frame.facts = [...facts, ...(this.#facts.live ? [milliseconds(message.ms), done] : [])].join(" · ");
    this.#frame.about = lookedAt(answer.first, this.#facts);
    if (this.#hovered && !this.#holds(this.#hovered)) this.#hovered = null;
    if (this.#cursor && !this.#holds(this.#cursor)) this.#cursor = null;
    const unseen = this.#unseen;
    this.#unseen = false;
    const before = this.#pictures.view;
    this.#pictures.show(answer, this.#spec.view, from);
    if (this.#pictures.view !== before) this.#viewed();
    this.#look();
    if (unseen && this.#pinned()) this.#pictures.reveal(this.#active());
  }

  /** Another view is shown. */
  #viewed(): void {
    this.#placeDetail();
    this.#repaint();
    this.#pictures.reveal(this.#active());
  }

  /** Two grids need the whole width: the detail goes below them, unless there is room for all. */
  #placeDetail(): void {
    const { root } = this.#frame;
    root.classList.toggle("lk-side", this.#pictures.view === "side" && root.clientWidth < ROOM_FOR_ALL);
  }

  #fail(text: string): void {
    this.#frame.error = text;
    this.#fields.wrong = true;
  }

  #repaint(): void {
    // The frame tells its theme while it is being made, before there is anything to paint.
    if (!this.#source) return;
    const { paints, legend } = coloursOf(this.#spec, this.#facts, this.#pictures.view, this.#frame.theme.theme);
    this.#pictures.paints = paints;
    this.#legend.show(legend, this.#spec.scale !== null);
    this.#look();
  }

  #resized(): void {
    this.#fields.fit();
    this.#placeDetail();
    this.#pictures.resized();
    this.#look();
  }

  /** Brings marks, detail and profile in step with the active cell. */
  #look(): void {
    const { answer } = this.#source;
    if (!answer?.first.positions) return;
    const [active, pinned] = [this.#active(), this.#pinned()];
    const { view, profile } = this.#pictures;
    const targeted = this.#spec.target !== null || this.#spec.versus !== null;
    const two = view !== "one" && answer.second !== null;
    this.#pictures.mark(active, pinned, this.#hovered);
    const detail = (two ? this.#pair : this.#detail).element;
    if (!detail.isConnected) this.#frame.detail.replaceChildren(detail);
    if (two) this.#pair.show(answer, active, sameCell(active, pinned), targeted);
    else this.#detail.show(answer.first, active, sameCell(active, pinned), targeted);
    const tiny = this.#frame.root.classList.contains("lk-tiny");
    const shown = two ? (answer.second ?? answer.first) : answer.first;
    const pair = two ? { first: answer.first, names: sideNames(answer.message) } : null;
    profile.show(shown, active, statisticOf(this.#spec.statistic), this.#facts, (row) => this.#pictures.lineOf(row), tiny, pair);
  }

  // --- the cells that count

  #holds(cell: Cell): boolean {
    const { table } = this.#source;
    return table !== null && cell.pos >= 0 && cell.pos < table.positions && cell.row >= 0 && cell.row < table.rows;
  }

  #pinned(): Cell | null {
    const { table } = this.#source;
    const { selection } = this.#spec;
    if (!table || !selection) return null;
    // Until the answer comes, the cell is marked in the table of the lens before.
    const { layer, pos } = carried(selection, siteOf(this.#spec, this.#facts), table.site, this.#facts);
    const cell = { row: table.rowOf(layer), pos };
    return this.#holds(cell) ? cell : null;
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
      this.#pictures.reveal(cell);
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
    const to = event.altKey || event.shiftKey ? null : walk(event, this.#active(), table, (row) => this.#pictures.lineOf(row));
    const plain = !event.ctrlKey && !event.metaKey && !event.altKey;
    if (to) this.#moveTo(to);
    else if (event.key === "Enter" && plain && !event.shiftKey) this.#pin(this.#active());
    else if (event.key === "Escape") this.#escape();
    else if (event.key.toLowerCase() === "t" && plain && this.#facts.live) {
      const { pos, row } = this.#active();
      this.#makeTarget(table.topId(pos, row));
    } else if (event.key.toLowerCase() === "v" && plain && this.#facts.live) {
      const { pos, row } = this.#active();
      this.#change({ versus: table.topId(pos, row) });
    } else return;
    handled(event);
  }

  #escape(): void {
    if (!this.#frame.closeKeys()) this.#change({ selection: null });
  }

  #makeTarget(id: number): void {
    // After an error the same target may be asked for again.
    this.#change({ target: id }, this.#spec.target === id && !this.#source.asked(questionOf(this.#spec)));
  }

  #fit(): void {
    const { answer } = this.#source;
    if (this.#spec.scale) this.#change({ scale: null });
    else if (answer) this.#change({ scale: fitted(this.#spec, answer, this.#pictures.view) });
  }

  #chooseView(view: View): void {
    const before = this.#spec.other;
    this.#change(withView(this.#spec, view, this.#facts.lenses));
    if (before === null && this.#spec.other !== null) {
      this.#fields.fill(this.#spec);
      this.#fields.typeOther();
    }
  }

  #chooseBeside(lens: string | null): void {
    if (this.#spec.other !== null) this.#lastOther = this.#spec.other;
    this.#change(lens === null ? { second: null, other: this.#lastOther ?? this.#spec.prompt } : { second: lens, other: null });
    if (lens === null) {
      this.#fields.fill(this.#spec);
      this.#fields.typeOther();
    }
  }

  async #copy(): Promise<void> {
    const { answer } = this.#source;
    if (!answer) return;
    const two = this.#pictures.view !== "one";
    const code = copied(answer, this.#active(), two);
    const detail = two ? this.#pair : this.#detail;
    if (await copyText(code, this.#frame.root)) detail.note("Copied.");
    else detail.note("To be copied by hand:", code);
  }
}
