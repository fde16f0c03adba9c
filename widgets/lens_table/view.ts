// The lens table: the spec, the source and the parts, put together.
import type { AnyModel } from "@anywidget/types";
import { copyText } from "../shared/clipboard.ts";
import { Frame } from "../shared/frame.ts";
import { History } from "../shared/history.ts";
import { Linked, type Fields as Followed } from "../shared/linked.ts";
import { keepingItsCell, questionOf, sideNames, siteOf, withoutTargets } from "./asking.ts";
import { Besides } from "./besides.ts";
import { cellOf, following, holds, regionIn, selectionOf } from "./chosen.ts";
import { coloursOf, fitted } from "./colours.ts";
import { copied } from "./copied.ts";
import { Detail } from "./detail.ts";
import { Fields } from "./fields.ts";
import { lookedAt, told } from "./cells.ts";
import { sameCell, type Cell } from "./grid.ts";
import { pressed, type Doing } from "./hands.ts";
import { Legend } from "./legend.ts";
import { Pictures } from "./pictures.ts";
import { Second } from "./second.ts";
import { shortcuts } from "./shortcuts.ts";
import { changedFields, readSpec, type Facts, type Selection, type Spec } from "./spec.ts";
import { statisticOf } from "./statistic.ts";
import { TableSource, type Answer } from "./source.ts";
import { Switches } from "./switches.ts";

export type Model = AnyModel<{ spec: Spec; facts: Facts }>;

/** Two grids and the detail beside them. */
const ROOM_FOR_ALL = 1380;

/** What another answer is needed for, and what the colours follow. */
const ASKING: ReadonlySet<keyof Spec> = new Set(["prompt", "target", "versus", "lens", "second", "other", "view", "written", "cells"]);
const PAINTING: ReadonlySet<keyof Spec> = new Set(["statistic", "difference", "scale", "order", "view", "cells"]);

export class LensTableView {
  readonly #model: Model;
  readonly #facts: Facts;
  readonly #frame: Frame;
  readonly #pictures: Pictures;
  readonly #detail: Detail;
  readonly #second: Second;
  readonly #legend: Legend;
  readonly #fields: Fields;
  readonly #source: TableSource;
  readonly #linked: Linked;
  readonly #history = new History<Spec>();
  readonly #switches: Switches;
  #spec: Spec;
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
    const besides = new Besides(this.#facts, this.#spec, {
      change: (patch) => this.#change(patch),
      typed: () => {
        this.#fields.fill(this.#spec);
        this.#fields.typeOther();
      },
    });

    this.#frame = new Frame(title, shortcuts(live), signal, {
      themed: () => this.#repaint(),
      resized: () => this.#resized(),
      undo: () => this.#restore(this.#history.undo(this.#spec)),
      redo: () => this.#restore(this.#history.redo(this.#spec)),
    });
    this.#switches = new Switches(this.#facts, this.#spec, signal, {
      lens: (lens) => besides.lens(this.#spec, lens),
      view: (view) => besides.view(this.#spec, view),
      beside: (lens) => besides.beside(this.#spec, lens),
      changed: (patch) => this.#change(patch),
    });
    this.#frame.switches.append(...this.#switches.elements);

    this.#fields = new Fields(this.#frame.prompts, live, signal, {
      typed: (patch) => this.#source.readSoon(() => this.#change(patch)),
      run: (patch) => this.#change(patch, true),
      left: () => this.#pictures.focus(),
      write: () => this.#do("g"),
    });

    this.#pictures = new Pictures(
      {
        hovered: (cell) => {
          this.#hovered = cell;
          this.#look();
        },
        dragged: (from, to) => this.#choose(from, to),
        clicked: ({ row, pos }) => this.#choose({ row: row ?? this.#active().row, pos: pos ?? this.#active().pos }),
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
      do: (what: Doing) => this.#do(what),
    };
    this.#detail = new Detail(live, events, signal);
    this.#frame.detail.append(this.#detail.element);
    this.#second = new Second(
      {
        ...events,
        model,
        facts: this.#facts,
        signal,
        change: (patch) => this.#change(patch),
        light: (cells) => this.#pictures.light(cells),
        copyText: (text) => copyText(text, this.#frame.root),
      },
      (panel, style) => {
        this.#frame.root.append(style);
        this.#frame.detail.append(panel.element);
        this.#frame.prompts.append(panel.strip);
        this.#source.comparing = this.#switches.comparing = panel;
        this.#look();
      },
      (text) => this.#fail(text),
    );

    this.#source = new TableSource(
      model,
      {
        table: (answer, from) => this.#show(answer, from),
        progress: (share) => (this.#fields.progress = share),
        error: (text) => this.#fail(text),
        comparing: (then) => void this.#second.need(then),
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
    return matters && !this.#answered() && !this.#source.asked(questionOf(this.#spec));
  }

  /** Whether what is here shows it: of two readings the first can be shown alone. */
  #answered(): boolean {
    const message = this.#source.answer?.message;
    if (!message || this.#spec.view !== "one" || siteOf(this.#spec, this.#facts) !== message.site) return false;
    // All but what stands beside it, which is not shown.
    const { second, other } = message;
    return this.#source.asked(message) && this.#source.asked({ ...questionOf(this.#spec), second, other });
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
  #follow(fields: Followed): Selection | null {
    const spec = following(this.#spec, this.#source.table, fields);
    if (!spec) return null;
    this.#cursor = null;
    this.#write(spec, changedFields(this.#spec, spec));
    this.#pictures.reveal(this.#active());
    return spec.selection;
  }

  /** Draws what a change of these fields touches. */
  #apply(fields: readonly (keyof Spec)[]): void {
    const spec = this.#spec;
    for (const part of [this.#switches, this.#fields]) part.show(spec);
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
    const { first } = answer;
    this.#frame.error = null;
    this.#fields.wrong = false;
    this.#frame.facts = told(answer, this.#facts);
    this.#frame.about = lookedAt(answer.first, this.#facts);
    if (this.#hovered && !holds(first, this.#hovered)) this.#hovered = null;
    if (this.#cursor && !holds(first, this.#cursor)) this.#cursor = null;
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
    this.#pictures.fold(root.clientWidth);
  }

  #fail(text: string): void {
    this.#frame.error = text;
    this.#fields.wrong = true;
  }

  #repaint(): void {
    // The frame tells its theme while it is being made, before there is anything to paint.
    if (!this.#source) return;
    const { paints, legend } = coloursOf(this.#spec, this.#facts, this.#pictures.view, this.#frame.theme.theme, this.#source.comparing);
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
    const [active, pinned, region] = [this.#active(), this.#pinned(), regionIn(this.#spec, this.#source.table, this.#facts)];
    const { view, profile } = this.#pictures;
    const targeted = this.#spec.target !== null || this.#spec.versus !== null;
    const two = view !== "one" && answer.second !== null;
    this.#pictures.mark(active, pinned, this.#hovered, region);
    const { panel } = this.#second;
    const own = sameCell(active, pinned);
    this.#detail.show(answer.first, active, own, targeted);
    this.#detail.element.hidden = two && panel !== null;
    if (panel) panel.show({ spec: this.#spec, answer, active, pinned: own, region, two });
    else if (two || region || (this.#facts.live && (this.#spec.act || this.#spec.written.length))) void this.#second.need();
    const tiny = this.#frame.root.classList.contains("lk-tiny");
    const shown = two ? (answer.second ?? answer.first) : answer.first;
    const pair = two ? { first: answer.first, names: sideNames(answer.message) } : null;
    profile.show(shown, active, statisticOf(this.#spec.statistic), this.#facts, this.#pictures.lineOf, tiny, pair);
  }

  // --- the cells that count

  #pinned(): Cell | null {
    return cellOf(this.#spec.selection, this.#spec, this.#source.table, this.#facts);
  }

  /** The cell that is looked at: under the pointer, under the keys, pinned, or the model's prediction at the end. */
  #active(): Cell {
    const { table } = this.#source;
    const end = { row: (table?.rows ?? 1) - 1, pos: (table?.positions ?? 1) - 1 };
    return this.#hovered ?? this.#cursor ?? this.#pinned() ?? end;
  }

  #moveTo(cell: Cell | null): void {
    this.#cursor = cell;
    if (cell) {
      this.#hovered = null;
      this.#pictures.reveal(cell);
    }
    this.#look();
  }

  /** Chooses a cell, or a region from one to another. */
  #choose(from: Cell, to: Cell | null = null): void {
    const { table } = this.#source;
    if (!table) return;
    this.#cursor = to ?? from;
    this.#hovered = null;
    this.#change({ selection: selectionOf(from, table), to: to && selectionOf(to, table) });
    this.#look();
  }

  // --- what one can do

  #key(event: KeyboardEvent): void {
    const { table } = this.#source;
    if (!table?.positions) return;
    const from = this.#active();
    const top = table.topId(from.pos, from.row);
    pressed(event, from, table, this.#pictures.lineOf, this.#facts.live, {
      move: (cell) => this.#moveTo(cell),
      extend: (cell) => {
        this.#choose((this.#spec.to && this.#pinned()) ?? from, cell);
        this.#pictures.reveal(cell);
      },
      pin: () => this.#choose(from),
      escape: () => this.#escape(),
      makeTarget: () => this.#makeTarget(top),
      makeVersus: () => this.#change({ versus: top }),
      do: (what) => this.#do(what),
    });
  }

  #escape(): void {
    if (this.#frame.closeKeys() || this.#second.panel?.stop()) return;
    this.#change(this.#spec.to ? { to: null } : { selection: null });
  }

  /** What the second module does: rank, steer, swap, ablate, write on. */
  #do(what: Doing): void {
    void this.#second.need((panel) => panel.do(what));
  }

  #makeTarget(id: number): void {
    // After an error the same target may be asked for again.
    this.#change({ target: id }, this.#spec.target === id && !this.#source.asked(questionOf(this.#spec)));
  }

  #fit(): void {
    const { answer } = this.#source;
    if (this.#spec.scale) this.#change({ scale: null });
    else if (answer) this.#change({ scale: fitted(this.#spec, answer, this.#pictures.view, this.#source.comparing) });
  }

  async #copy(): Promise<void> {
    const { answer } = this.#source;
    if (!answer) return;
    const two = this.#pictures.view !== "one";
    const code = copied(answer, this.#active(), two);
    const detail = (two && this.#second.panel) || this.#detail;
    if (await copyText(code, this.#frame.root)) detail.note("Copied.");
    else detail.note("To be copied by hand:", code);
  }
}
