// The patch grid: the spec, the source and the parts, put together.
import type { AnyModel } from "@anywidget/types";
import { copyText } from "../shared/clipboard.ts";
import { diverging } from "../shared/colour.ts";
import { Frame } from "../shared/frame.ts";
import { History } from "../shared/history.ts";
import { Linked, type Fields } from "../shared/linked.ts";
import { pythonOf } from "./code.ts";
import { Detail, type DetailEvents } from "./detail.ts";
import { keysOf, pressed } from "./hands.ts";
import { endsOf, Legend } from "./legend.ts";
import { followed, Looking, standsOn, withTrial } from "./looking.ts";
import { PromptPair } from "./prompts.ts";
import { columnsOf, layersOf, placeOf, regionOf, sameCell, type Cell } from "./region.ts";
import { SweepSource } from "./source.ts";
import { asksAnew, changedFields, questionOf, readSpec, withToken } from "./spec.ts";
import type { Facts, Question, Spec, Trial } from "./spec.ts";
import { Stage } from "./stage.ts";
import { Switches } from "./switches.ts";
import { keyOf, type Patched, type Sweep } from "./sweep.ts";
import { progressInWords, sweptInWords } from "./words.ts";

export type Model = AnyModel<{ spec: Spec; facts: Facts }>;

/** How long the pointer rests on a cell before it is patched for a look. */
const LOOK_MS = 160;

export class PatchGridView {
  readonly #model: Model;
  readonly #facts: Facts;
  readonly #frame: Frame;
  readonly #stage: Stage;
  readonly #detail: Detail;
  readonly #legend: Legend;
  readonly #prompts: PromptPair;
  readonly #source: SweepSource;
  readonly #linked: Linked;
  readonly #history = new History<Spec>();
  readonly #switches: Switches;
  #spec: Spec;
  readonly #looking = new Looking(() => [this.#source.sweep, this.#spec]);
  /** A patch that was asked for in order to be kept in the history. */
  #trying: string | null = null;
  #look: ReturnType<typeof setTimeout> | undefined;

  constructor(model: Model, el: HTMLElement, signal: AbortSignal) {
    this.#model = model;
    this.#facts = model.get("facts");
    this.#spec = readSpec(model.get("spec"));
    const { live, title, sites } = this.#facts;

    this.#frame = new Frame(title, keysOf(live), signal, {
      themed: () => this.#repaint(),
      resized: () => this.#resized(),
      undo: () => this.#restore(this.#history.undo(this.#spec)),
      redo: () => this.#restore(this.#history.redo(this.#spec)),
    });
    this.#frame.root.classList.add("lk-patching");
    this.#switches = new Switches(sites, signal, (change) => this.#choose(change));
    if (live) this.#frame.switches.append(...this.#switches.elements);

    this.#prompts = new PromptPair(live, signal, {
      typed: (prompts) => this.#source.askSoon(() => this.#choose(prompts)),
      run: (prompts) => this.#choose(prompts, true),
      left: () => this.#stage.grid.element.focus(),
    });
    this.#frame.prompts.append(this.#prompts.element);

    this.#stage = new Stage(
      {
        hovered: (cell) => this.#hover(cell),
        clicked: (cell) => this.#run(cell, cell),
        dragged: (from, to, over) => this.#drag(from, to, over),
        edit: (which) => this.#prompts.edit(which),
        pressed: (event) => this.#key(event),
        left: () => this.#moveTo(null),
      },
      signal,
    );
    this.#stage.grid.reserve(this.#facts.layers);
    this.#legend = new Legend(signal, () => this.#fit());
    this.#frame.picture.append(this.#stage.element, this.#legend.element);

    const does: DetailEvents = {
      run: () => this.#runChosen(),
      undo: () => this.#restore(this.#history.undo(this.#spec)),
      copy: () => void this.#copy(),
      again: (trial) => this.#goBack(trial),
      choose: (role, id) => this.#choose(withToken(this.#spec, role, id)),
    };
    this.#detail = new Detail(live, does, signal);
    this.#frame.detail.append(this.#detail.element);

    this.#source = new SweepSource(
      model,
      {
        sweep: (sweep) => this.#show(sweep),
        cells: (sweep) => this.#fresh(sweep),
        progress: (share) => (this.#stage.progress = share),
        patched: (sweep, layers, columns, patched) => this.#patched(sweep, keyOf(layers, columns), patched),
        error: (text) => this.#fail(text),
        silent: () => (this.#frame.facts = "waiting for the kernel…"),
      },
      signal,
    );
    this.#linked = new Linked(model, signal, (fields) => this.#follow(fields));
    const changed = (): void => this.#changedOutside();
    model.on("change:spec", changed);
    signal.addEventListener("abort", () => {
      model.off("change:spec", changed);
      clearTimeout(this.#look);
    });
    el.append(this.#frame.root);
    this.#frame.theme.look();
    this.#prompts.show(this.#spec);
    this.#apply(["site", "scale"]);
    this.#source.ask(questionOf(this.#spec));
  }

  // --- the spec, from here, from Python and from the history

  /** A change made here: noted in the history, sent to Python, drawn. */
  #change(patch: Partial<Spec>): (keyof Spec)[] {
    const spec = { ...this.#spec, ...patch };
    const fields = changedFields(this.#spec, spec);
    if (fields.length) this.#history.record(this.#spec, fields);
    this.#write(spec, fields);
    return fields;
  }

  /** A change of what is asked. `again` asks even where nothing changed: after an error, or after a stop. */
  #choose(patch: Partial<Question>, again = false): void {
    // Heads are no positions.
    const otherColumns = patch.site !== undefined && this.#isHeaded(patch.site) !== this.#isHeaded(this.#spec.site);
    const fields = this.#change({ ...patch, ...(otherColumns ? { selection: null, to: null } : {}) });
    const question = questionOf(this.#spec);
    if (again || (asksAnew(fields) && !this.#source.asked(question))) this.#ask(question);
  }

  #isHeaded(site: string): boolean {
    return this.#facts.headed.includes(site);
  }

  #ask(question: Question): void {
    if (this.#facts.live) this.#source.ask(question);
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
    this.#looking.forget();
    this.#trying = null;
    this.#write(spec, fields);
    this.#prompts.show(spec);
    if (fields.includes("selection")) this.#linked.announce(spec.selection && { ...spec.selection });
    const question = questionOf(spec);
    if (asksAnew(fields) && !this.#source.asked(question)) this.#ask(question);
  }

  /** Python, or another view of the same widget, has changed the spec. */
  #changedOutside(): void {
    const spec = readSpec(this.#model.get("spec"));
    const fields = changedFields(this.#spec, spec);
    if (!fields.length) return;
    this.#spec = spec;
    if ((fields.includes("clean") || fields.includes("corrupt")) && !this.#source.typing) this.#prompts.show(spec);
    if (fields.includes("selection")) this.#looking.cursor = this.#looking.drawn = null;
    this.#apply(fields);
    if (fields.includes("selection")) this.#reveal();
    const question = (): Question => questionOf(this.#spec);
    if (this.#facts.live && asksAnew(fields) && !this.#source.typing && !this.#source.asked(question())) {
      this.#source.askAfterOthers(question);
    }
  }

  /** A linked view chose a layer, a position or a head: what of it this grid has is chosen here too. */
  #follow(fields: Fields): Fields | null {
    const { sweep } = this.#source;
    const cell = sweep && followed(sweep, this.#looking.corners()?.[0] ?? sweep.strongest(), fields);
    if (!cell) return null;
    const spec = { ...this.#spec, selection: placeOf(sweep, cell), to: null };
    this.#looking.cursor = this.#looking.hovered = null;
    this.#write(spec, changedFields(this.#spec, spec));
    this.#stage.reveal(cell);
    return { ...spec.selection };
  }

  /** Draws what a change of these fields touches. */
  #apply(fields: readonly (keyof Spec)[]): void {
    this.#switches.show(this.#spec);
    if (fields.includes("scale")) this.#repaint();
    else this.#refresh();
  }

  // --- drawing

  #show(sweep: Sweep): void {
    this.#frame.error = null;
    this.#prompts.wrong = false;
    for (const known of this.#facts.patched ?? []) sweep.know(known);
    this.#looking.forget();
    this.#frame.about = `${this.#facts.model} · ${sweptInWords(sweep)}`;
    this.#prompts.shown = sweep.header;
    this.#stage.show(sweep);
    this.#repaint();
    this.#reveal();
    this.#prompts.width = this.#frame.picture.clientWidth;
  }

  /** More cells have come. */
  #fresh(sweep: Sweep): void {
    this.#stage.grid.repaint();
    this.#legend.show(sweep, endsOf(this.#spec.scale, this.#source.sweep), diverging(this.#frame.theme.theme), this.#spec.scale !== null);
    this.#frame.facts = progressInWords(sweep, this.#facts);
    this.#refresh();
  }

  #fail(text: string): void {
    this.#frame.error = text;
    this.#prompts.wrong = true;
    this.#trying = null;
  }

  #repaint(): void {
    // The frame tells its theme while it is being made, before there is anything to paint.
    if (!this.#linked) return;
    const ends = endsOf(this.#spec.scale, this.#source.sweep);
    const scale = diverging(this.#frame.theme.theme);
    this.#stage.grid.paint = { ends, scale };
    this.#legend.show(this.#source.sweep, ends, scale, this.#spec.scale !== null);
    this.#stage.draw();
    this.#refresh();
  }

  #resized(): void {
    this.#stage.resized();
    this.#prompts.width = this.#frame.picture.clientWidth;
    this.#refresh();
  }

  /** Brings marks and detail in step with what is looked at. */
  #refresh(): void {
    if (!this.#linked) return;
    const { sweep } = this.#source;
    if (!sweep) return;
    this.#stage.grid.mark(this.#looking.active(), this.#looking.chosen());
    const now = this.#spec.tried.find((trial) => standsOn(this.#spec, trial)) ?? null;
    this.#detail.show(sweep, this.#looking.region(), this.#spec.tried, now, this.#history.canUndo);
  }

  // --- the cells that count

  #reveal(): void {
    const cells = this.#looking.corners();
    if (cells) this.#stage.reveal(cells[1]);
  }

  #hover(cell: Cell | null): void {
    this.#looking.hovered = cell;
    this.#refresh();
    this.#lookSoon();
  }

  /** Patches what is looked at, for a look, once the pointer or the keys rest: nothing is noted. */
  #lookSoon(): void {
    clearTimeout(this.#look);
    const { sweep } = this.#source;
    if (!this.#facts.live || !sweep || !this.#looking.passing) return;
    this.#look = setTimeout(() => {
      const region = this.#looking.region();
      const [layers, columns] = [layersOf(sweep, region), columnsOf(region)];
      if (this.#trying === null && sweep === this.#source.sweep && !sweep.patched.has(keyOf(layers, columns))) {
        this.#source.patch(layers, columns);
      }
    }, LOOK_MS);
  }

  #moveTo(cell: Cell | null): void {
    this.#looking.cursor = cell;
    if (cell) {
      this.#looking.hovered = null;
      this.#stage.reveal(cell);
    }
    this.#refresh();
    this.#lookSoon();
  }

  #extendTo(cell: Cell): void {
    const sweep = this.#source.sweep as Sweep;
    const from = this.#looking.cursor ?? this.#looking.corners()?.[0] ?? cell;
    this.#looking.cursor = this.#looking.hovered = null;
    const selection = placeOf(sweep, from);
    this.#change({ selection, to: sameCell(from, cell) ? null : placeOf(sweep, cell) });
    this.#linked.announce({ ...selection });
    this.#stage.reveal(cell);
  }

  #drag(from: Cell, to: Cell, over: boolean): void {
    this.#looking.drawn = [from, to];
    this.#looking.hovered = this.#looking.cursor = null;
    if (over) this.#run(from, to);
    else this.#refresh();
  }

  // --- what one can do

  #key(event: KeyboardEvent): void {
    const { sweep } = this.#source;
    if (!sweep) return;
    pressed(event, sweep, this.#looking.active(), {
      move: (cell) => this.#moveTo(cell),
      extend: (cell) => this.#extendTo(cell),
      run: () => this.#runChosen(),
      escape: () => this.#escape(),
    });
  }

  #escape(): void {
    if (this.#frame.closeKeys()) return;
    if (this.#source.working) this.#source.stop();
    else {
      this.#looking.cursor = this.#looking.drawn = null;
      this.#change({ selection: null, to: null });
    }
  }

  #runChosen(): void {
    const { passing } = this.#looking;
    if (passing) this.#run(passing, passing);
    else this.#run(...(this.#looking.corners() ?? [this.#looking.active(), this.#looking.active()]));
  }

  /** Chooses a region, patches it, and notes what came of it. */
  #run(from: Cell, to: Cell): void {
    const { sweep } = this.#source;
    if (!sweep) return;
    this.#looking.drawn = null;
    this.#looking.cursor = to;
    const selection = placeOf(sweep, from);
    const region = regionOf(from, to);
    if (!sameCell(from, to)) this.#looking.cursor = this.#looking.hovered = null;
    this.#change({ selection, to: sameCell(from, to) ? null : placeOf(sweep, to) });
    this.#linked.announce({ ...selection });
    const [layers, columns] = [layersOf(sweep, region), columnsOf(region)];
    const known = sweep.patched.get(keyOf(layers, columns));
    if (known) this.#note(sweep, known);
    else if (this.#facts.live) {
      this.#trying = keyOf(layers, columns);
      this.#source.patch(layers, columns);
    }
    this.#refresh();
  }

  #patched(sweep: Sweep, key: string, patched: Patched): void {
    if (this.#trying === key) {
      this.#trying = null;
      this.#note(sweep, patched);
    }
    this.#refresh();
  }

  /** Notes a result: a part of the step that chose the region, so that one undo takes both away. */
  #note(sweep: Sweep, { value }: Patched): void {
    const spec = withTrial(this.#spec, sweep, value);
    this.#write(spec, changedFields(this.#spec, spec));
  }

  #goBack({ selection, to, value: _, share: __, ...question }: Trial): void {
    this.#looking.cursor = this.#looking.hovered = null;
    this.#change({ ...question, selection, to });
    const asked = questionOf(this.#spec);
    if (!this.#source.asked(asked)) this.#ask(asked);
    this.#linked.announce({ ...selection });
    this.#reveal();
  }

  #fit(): void {
    const { sweep } = this.#source;
    if (this.#spec.scale) this.#change({ scale: null });
    else if (sweep) {
      const end = sweep.largest() || 1;
      this.#change({ scale: [-end, end] });
    }
  }

  async #copy(): Promise<void> {
    const sweep = this.#source.sweep as Sweep;
    const code = pythonOf(sweep, this.#looking.chosen() ?? this.#looking.region());
    if (await copyText(code, this.#frame.root)) this.#detail.note("Copied.");
    else this.#detail.note("To be copied by hand:", code);
  }
}
