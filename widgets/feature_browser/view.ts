// The feature browser: the spec, the source and the parts, put together.
import type { AnyModel } from "@anywidget/types";
import { copyText } from "../shared/clipboard.ts";
import { Frame } from "../shared/frame.ts";
import { History } from "../shared/history.ts";
import { handled, isTyping } from "../shared/keys.ts";
import { Linked, type Fields } from "../shared/linked.ts";
import { milliseconds, whole } from "../shared/numbers.ts";
import { PromptField } from "../shared/prompt.ts";
import { Segmented } from "../shared/segmented.ts";
import { CardPanel } from "./card.ts";
import { pythonOf } from "./code.ts";
import { Finder } from "./finder.ts";
import { List } from "./list.ts";
import { questionOf } from "./question.ts";
import { step, walk } from "./places.ts";
import type { Rows } from "./rows.ts";
import { shortcutsOf, sortsOf } from "./shortcuts.ts";
import { FeatureSource } from "./source.ts";
import { aboutOf, changedFields, isNeutral, noted, numbered, readSpec, STEER, steeredAt, toggled, type Facts, type Selection, type Sort, type Spec } from "./spec.ts";

export type Model = AnyModel<{ spec: Spec; facts: Facts }>;

export class View {
  readonly #model: Model;
  readonly #facts: Facts;
  readonly #frame: Frame;
  readonly #prompt: PromptField | null;
  readonly #sorts: Segmented<Sort>;
  readonly #finder: Finder;
  readonly #list: List;
  readonly #card: CardPanel;
  readonly #source: FeatureSource;
  readonly #linked: Linked;
  readonly #history = new History<Spec>();
  #spec: Spec;
  /** The feature that is to be brought into view once its place is known. */
  #sought: number | null;
  /** A row that was walked to and is on its way. */
  #landing: number | null = null;
  #finding: ReturnType<typeof setTimeout> | undefined;

  constructor(model: Model, el: HTMLElement, signal: AbortSignal) {
    this.#model = model;
    this.#facts = model.get("facts");
    this.#spec = readSpec(model.get("spec"));
    this.#sought = this.#spec.selection?.feature ?? null;
    const { live, title, model: name, unit } = this.#facts;
    const prompted = name !== null;

    this.#frame = new Frame(title, shortcutsOf(prompted, live), signal, {
      themed: () => this.#look(),
      resized: () => this.#resized(),
      undo: () => this.#restore(this.#history.undo(this.#spec)),
      redo: () => this.#restore(this.#history.redo(this.#spec)),
    });
    this.#frame.root.classList.add("lk-features");
    this.#frame.detail.setAttribute("aria-label", `The chosen ${unit}`);
    this.#frame.about = aboutOf(this.#facts);
    this.#frame.root.addEventListener("keydown", (event) => this.#shortcut(event), { signal });
    this.#sorts = new Segmented<Sort>("sort", sortsOf(prompted), signal, (sort) => this.#sort(sort));
    this.#frame.switches.append(this.#sorts.element);

    this.#prompt = prompted
      ? new PromptField("prompt", live, signal, {
          typed: (text) => this.#source.readSoon(() => this.#change({ prompt: text })),
          run: (text) => this.#change({ prompt: text }, true),
          left: () => this.#list.grid.focus(),
        })
      : null;
    if (this.#prompt) this.#frame.prompts.append(this.#prompt.element);

    this.#source = new FeatureSource(
      model,
      live,
      {
        rows: () => this.#listed(),
        card: () => this.#look(),
        fired: () => this.#fired(),
        steered: () => this.#look(),
        progress: (share) => this.#prompt && (this.#prompt.progress = share),
        error: (text) => this.#fail(text),
        silent: () => (this.#frame.facts = "waiting for the kernel…"),
      },
      signal,
    );
    this.#finder = new Finder(
      this.#facts,
      {
        find: (text) => this.#find(text, signal),
        by: (by) => this.#change({ by }),
        only: (only) => this.#change({ only }),
        left: () => this.#list.grid.focus(),
      },
      signal,
    );
    this.#list = new List(
      this.#facts,
      this.#source.words,
      {
        chosen: (feature) => this.#select({ feature }),
        seen: (first, end) => this.#source.want(first, end),
        sorted: (sort) => this.#turn(sort),
        pressed: (event) => this.#key(event),
      },
      signal,
    );
    this.#card = new CardPanel(
      this.#facts,
      this.#source,
      {
        pin: () => this.#pin(),
        noted: (text) => this.#note(text),
        copy: () => void this.#copy(),
        steer: (steer) => this.#change({ steer }),
        left: () => this.#list.grid.focus(),
        band: (band) => this.#change({ band }),
        window: (window) => this.#change({ window }),
        place: (pos) => this.#select({ pos }),
        fit: (fit) => this.#change({ fit }),
        feature: (feature) => this.#select({ feature }, true),
        through: (feature, layer, head) => this.#source.askThrough(feature, layer, head),
      },
      signal,
    );
    this.#frame.picture.append(this.#finder.above, this.#list.element, this.#finder.below);
    this.#frame.detail.append(this.#card.element);

    this.#linked = new Linked(model, signal, (fields) => this.#follow(fields));
    const changed = (): void => this.#changedOutside();
    model.on("change:spec", changed);
    signal.addEventListener("abort", () => {
      model.off("change:spec", changed);
      clearTimeout(this.#finding);
    });
    el.append(this.#frame.root);
    this.#frame.theme.look();
    if (this.#prompt) this.#prompt.text = this.#spec.prompt;
    this.#ask();
    this.#look();
  }

  // --- the spec, from here, from Python, from a linked view and from the history

  /** A change made here: noted in the history, sent to Python, told to linked views, drawn. */
  #change(patch: Partial<Spec>, again = false): void {
    const spec = { ...this.#spec, ...patch };
    const fields = changedFields(this.#spec, spec);
    if (fields.length) this.#history.record(this.#spec, fields);
    this.#write(spec, fields);
    if (fields.includes("selection")) this.#linked.announce(spec.selection);
    if (again && this.#spec.prompt && !fields.includes("prompt")) this.#source.read(this.#spec.prompt, this.#feature);
  }

  #write(spec: Spec, fields: readonly (keyof Spec)[]): void {
    if (!fields.length) return;
    this.#spec = spec;
    this.#model.set("spec", spec);
    this.#model.save_changes();
    this.#ask();
    this.#look();
  }

  #restore(spec: Spec | undefined): void {
    if (!spec) return;
    const fields = changedFields(this.#spec, spec);
    if (this.#prompt) this.#prompt.text = spec.prompt;
    this.#sought = spec.selection?.feature ?? null;
    this.#write(spec, fields);
    if (fields.includes("selection")) this.#linked.announce(spec.selection);
    this.#seek();
  }

  /** Python, or another view of the same widget, has changed the spec. */
  #changedOutside(): void {
    const spec = readSpec(this.#model.get("spec"));
    const fields = changedFields(this.#spec, spec);
    if (!fields.length) return;
    this.#spec = spec;
    if (this.#prompt && fields.includes("prompt") && !this.#source.typing) this.#prompt.text = spec.prompt;
    if (fields.includes("selection")) this.#sought = spec.selection?.feature ?? null;
    this.#ask(true);
    this.#look();
    this.#seek();
  }

  /** Chooses the token that a linked view chose. */
  #follow({ pos }: Fields): Selection | null {
    const { selection } = this.#spec;
    const { fired } = this.#source;
    if (!selection || !fired || typeof pos !== "number" || pos < 0 || pos >= fired.positions) return null;
    const next = { ...selection, pos };
    const spec = { ...this.#spec, selection: next };
    this.#write(spec, changedFields(this.#spec, spec));
    return next;
  }

  // --- what is asked for

  get #feature(): number | null {
    return this.#spec.selection?.feature ?? null;
  }

  /** Asks for what the spec shows and is not here. */
  #ask(outside = false): void {
    const { prompt, steer } = this.#spec;
    if (this.#prompt && prompt && this.#facts.live && !this.#source.answered(prompt) && !this.#source.typing) {
      const read = (): void => this.#source.read(this.#spec.prompt, this.#feature);
      if (outside) this.#source.readAfterOthers(read);
      else read();
    }
    const question = questionOf(this.#facts, this.#spec, this.#source.fired);
    if (question) this.#source.list(question, this.#sought);
    if (this.#feature === null) return;
    this.#source.askCard(this.#feature);
    const here = this.#source.fired?.message.prompt === prompt;
    if (!this.#facts.live || (here && isNeutral(steer))) this.#source.steer(null);
    else if (here) this.#source.steer({ prompt, feature: this.#feature, ...steer, pos: steeredAt(this.#spec) });
  }

  // --- drawing

  #listed(): void {
    const { rows } = this.#source;
    if (!rows) return;
    this.#look();
    const first = rows.row(0);
    if (this.#feature === null && first) this.#write({ ...this.#spec, selection: { feature: first.feature, pos: null } }, ["selection"]);
    const landed = this.#landing === null ? undefined : rows.row(this.#landing);
    if (landed) {
      this.#landing = null;
      this.#select({ feature: landed.feature });
    }
    this.#seek();
  }

  #fired(): void {
    const { fired } = this.#source;
    if (fired) {
      this.#frame.error = null;
      this.#prompt?.field.removeAttribute("aria-invalid");
      const { ms, recomputed } = fired.message;
      const facts = [this.#facts.dtype, this.#facts.device];
      const took = [milliseconds(ms), `${whole(recomputed)} of ${whole(fired.positions)} positions recomputed`];
      this.#frame.facts = [...facts, ...(this.#facts.live ? took : [])].join(" · ");
      const pos = this.#spec.selection?.pos ?? null;
      if (pos !== null && pos >= fired.positions && this.#spec.selection) {
        this.#write({ ...this.#spec, selection: { ...this.#spec.selection, pos: null } }, ["selection"]);
      }
    }
    this.#ask();
    this.#look();
  }

  #fail(text: string): void {
    this.#frame.error = text;
    this.#prompt?.field.setAttribute("aria-invalid", "true");
    this.#look();
  }

  #resized(): void {
    this.#prompt?.fit();
    this.#look();
    this.#seek();
  }

  /** Brings all parts in step with the spec and with what is here. */
  #look(): void {
    // The frame tells its theme while it is being made, before there is anything to draw.
    if (!this.#card) return;
    const { rows, frozen } = this.#source;
    const { sort, order, pinned, notes } = this.#spec;
    this.#sorts.value = sort;
    this.#finder.show(this.#spec, rows?.total ?? null, frozen ? frozen.rows.length : null);
    if (rows) this.#list.show(rows, { sort: rows.question.sort, order, chosen: this.#feature, pinned, notes });
    this.#card.show(this.#spec, this.#frame.theme.theme);
    if (!this.#facts.model) this.#frame.facts = [this.#facts.dtype, "give it a model to type a sentence"].filter(Boolean).join(" · ");
  }

  /** Brings the feature that is sought into view, as soon as its place in the list is known. */
  #seek(): void {
    const { rows } = this.#source;
    const feature = this.#sought;
    if (feature === null || !rows) return;
    const at = rows.indexOf(feature);
    if (at === null) {
      // Not in this order at all: then the list stays where it is.
      if (rows.found?.feature === feature) this.#sought = null;
      else this.#source.locate(feature);
      return;
    }
    if (this.#list.grid.clientHeight === 0) return;
    this.#sought = null;
    this.#list.reveal(at);
  }

  // --- what one can do

  #select(patch: Partial<Selection>, seek = false): void {
    const feature = patch.feature ?? this.#feature;
    if (feature === null) return;
    const moved = feature !== this.#feature;
    const selection = { pos: null, ...this.#spec.selection, feature, ...patch };
    if (moved && seek) this.#sought = feature;
    // Another feature begins unchanged, but one that is ablated stays an ablation: so one walks through them.
    const keep = this.#spec.steer.by === "scale" && this.#spec.steer.amount === 0;
    this.#change({ selection, ...(moved && !keep ? { steer: STEER } : {}) });
    this.#seek();
  }

  #turn(sort: Sort): void {
    const same = sort === this.#spec.sort;
    if (same) this.#change({ order: this.#spec.order === "down" ? "up" : "down" });
    else this.#sort(sort);
  }

  /** Numbers from the first, all else from the largest. */
  #sort(sort: Sort): void {
    this.#change({ sort, order: sort === "number" ? "up" : "down" });
  }

  #find(text: string, signal: AbortSignal): void {
    clearTimeout(this.#finding);
    this.#finding = setTimeout(() => {
      if (signal.aborted) return;
      const number = numbered(this.#facts, text);
      this.#change({ find: text });
      if (number !== null) this.#select({ feature: number }, true);
    }, 120);
  }

  #pin(): void {
    if (this.#feature !== null) this.#change({ pinned: toggled(this.#spec.pinned, this.#feature) });
  }

  #note(text: string): void {
    if (this.#feature !== null) this.#change({ notes: noted(this.#spec.notes, this.#feature, text) });
  }

  /** Keys that work wherever nothing is being typed. */
  #shortcut(event: KeyboardEvent): void {
    const { target } = event;
    if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "z" && target instanceof Element && target.matches("input[type=range]")) {
      handled(event);
      this.#restore(event.shiftKey ? this.#history.redo(this.#spec) : this.#history.undo(this.#spec));
      return;
    }
    if (isTyping(target) || event.ctrlKey || event.metaKey || event.altKey) return;
    const does = {
      p: () => this.#pin(),
      n: () => this.#card.note(),
      f: () => this.#finder.focus(),
      a: () => this.#ablate(),
    }[event.key.toLowerCase()];
    if (!does) return;
    handled(event);
    does();
  }

  #ablate(): void {
    if (!this.#facts.live || !this.#source.fired) return;
    const ablated = this.#spec.steer.by === "scale" && this.#spec.steer.amount === 0;
    this.#change({ steer: ablated ? STEER : { by: "scale", amount: 0 } });
  }

  /** Keys in the list. */
  #key(event: KeyboardEvent): void {
    if (event.ctrlKey || event.metaKey || event.altKey || event.shiftKey) return;
    const { rows, fired } = this.#source;
    if (!rows) return;
    if (event.key === "Escape") {
      handled(event);
      if (!this.#frame.closeKeys() && this.#spec.selection?.pos != null) this.#select({ pos: null });
      return;
    }
    const pos = step(event.key, this.#spec.selection?.pos ?? null, fired?.positions ?? 0);
    const at = this.#feature === null ? null : rows.indexOf(this.#feature);
    const index = walk(event.key, at ?? this.#list.top - 1, rows.total, this.#list.screen);
    if (pos !== null) this.#select({ pos });
    else if (index === null) return;
    else this.#walkTo(index, rows);
    handled(event);
  }

  #walkTo(index: number, rows: Rows): void {
    this.#list.reveal(index);
    const row = rows.row(index);
    if (row) this.#select({ feature: row.feature });
    else this.#landing = index;
  }

  async #copy(): Promise<void> {
    if (this.#feature === null) return;
    const code = pythonOf(this.#facts, this.#spec, this.#feature);
    if (await copyText(code, this.#frame.root)) this.#card.say("Copied.");
    else this.#card.say("To be copied by hand:", code);
  }
}
