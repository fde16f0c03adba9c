// The attention view: the spec, the source and the parts, put together.
import type { AnyModel } from "@anywidget/types";
import { copyText } from "../shared/clipboard.ts";
import { Frame } from "../shared/frame.ts";
import { History } from "../shared/history.ts";
import { handled, type Shortcut } from "../shared/keys.ts";
import { Linked, type Fields } from "../shared/linked.ts";
import { milliseconds, whole } from "../shared/numbers.ts";
import { PromptField } from "../shared/prompt.ts";
import { Segmented } from "../shared/segmented.ts";
import { pythonOf } from "./code.ts";
import { HeadPanel } from "./head.ts";
import { inkOf, type Ink } from "./ink.ts";
import { otherLayer, walkCells, walkHeads } from "./order.ts";
import type { Patterns } from "./patterns.ts";
import type { Place } from "./pattern.ts";
import { changedFields, modeOf, sameHead, readSpec, type Facts, type Head, type Pick, type Selection, type Show, type Spec } from "./spec.ts";
import { PatternSource, type Question } from "./source.ts";
import { Multiples } from "./multiples.ts";

export type Model = AnyModel<{ spec: Spec; facts: Facts }>;

const MOVES: readonly Shortcut[] = [
  { caps: ["← ↑ ↓ →"], does: "head or cell", foot: true },
  { caps: ["Tab"], does: "heads, pattern", foot: true },
  { caps: ["PgUp", "PgDn"], does: "layer", foot: true },
  { caps: ["Home", "End"], does: "first, last" },
  { caps: ["Esc"], does: "no cell" },
  { caps: ["V"], does: "value-weighted", foot: true },
  { caps: ["F"], does: "hide first token", foot: true },
];
const LIVE: readonly Shortcut[] = [
  { caps: ["A"], does: "ablate", foot: true },
  { caps: ["/"], does: "prompt", foot: true },
];
const LAST: readonly Shortcut[] = [
  { caps: ["Ctrl Z"], does: "undo" },
  { caps: ["Ctrl Shift Z"], does: "redo" },
  { caps: ["?"], does: "all keys", foot: true },
];
const PICKS = [
  { value: "all", label: "all" },
  { value: "previous", label: "previous token" },
  { value: "induction", label: "induction" },
  { value: "duplicate", label: "duplicate" },
] as const;
const SHOWS = [
  { value: "pattern", label: "pattern" },
  { value: "value-weighted", label: "value-weighted" },
] as const;
const FIRSTS = [
  { value: "shown", label: "shown" },
  { value: "hidden", label: "hidden" },
] as const;

/** Of the room, what the small patterns may take where the large one stands beside them. */
const LEFT = 0.45;
const BETWEEN = 28;
/**
 * A scrollbar takes about this much. Room for one is left free, and only a greater change is laid out anew: the height
 * depends on the width, and in a frame that is as high as its contents a scrollbar would come and go for ever.
 */
const SCROLLBAR = 20;

export class View {
  readonly #model: Model;
  readonly #facts: Facts;
  readonly #frame: Frame;
  readonly #prompt: PromptField;
  readonly #multiples: Multiples;
  readonly #head: HeadPanel;
  readonly #source: PatternSource;
  readonly #linked: Linked;
  readonly #history = new History<Spec>();
  readonly #shows: Segmented<Show>;
  readonly #firsts: Segmented<"shown" | "hidden">;
  readonly #picks: Segmented<Pick>;
  #spec: Spec;
  #ink: Ink | null = null;
  #width = 0;
  #hovered: Place | null = null;
  #scrolledTo = "";

  constructor(model: Model, el: HTMLElement, signal: AbortSignal) {
    this.#model = model;
    this.#facts = model.get("facts");
    this.#spec = readSpec(model.get("spec"));
    const { live, title } = this.#facts;

    this.#frame = new Frame(title, [...MOVES, ...(live ? LIVE : []), ...LAST], signal, {
      themed: () => this.#themed(),
      resized: () => this.#resized(),
      undo: () => this.#restore(this.#history.undo(this.#spec)),
      redo: () => this.#restore(this.#history.redo(this.#spec)),
    });
    this.#frame.root.classList.add("lk-attention");
    this.#frame.detail.setAttribute("aria-label", "The chosen head");
    const { model: name, layers, heads } = this.#facts;
    this.#frame.about = `${name}${layers.length ? ` · ${layers.length} layers × ${heads} heads` : ""}`;
    this.#shows = new Segmented<Show>("show", SHOWS, signal, (show) => this.#change({ show }));
    this.#firsts = new Segmented<"shown" | "hidden">("first token", FIRSTS, signal, (first) => this.#change({ hide_first: first === "hidden" }));
    this.#picks = new Segmented<Pick>("pick by", PICKS, signal, (pick) => this.#change({ pick }));
    this.#frame.switches.append(this.#shows.element, this.#firsts.element, this.#picks.element);

    this.#prompt = new PromptField("prompt", live, signal, {
      typed: (text) => this.#source.readSoon(() => this.#change({ prompt: text })),
      run: (text) => this.#change({ prompt: text }, true),
      left: () => this.#multiples.tiles.grid.focus(),
    });
    this.#frame.prompts.append(this.#prompt.element);

    this.#multiples = new Multiples(
      { clicked: (head) => this.#chooseHead(head), pressed: (event) => this.#key(event, false) },
      signal,
    );
    this.#head = new HeadPanel(
      live,
      {
        hovered: (place) => this.#hover(place),
        clicked: (place) => this.#choosePlace(place),
        pressed: (event) => this.#key(event, true),
        ablate: () => this.#ablate(),
        copy: () => void this.#copy(),
        restore: (head) => this.#change({ ablated: head ? this.#spec.ablated.filter((other) => !sameHead(other, head)) : [] }),
        by: (by) => this.#change({ by }),
      },
      signal,
    );
    this.#frame.picture.append(this.#multiples.element);
    this.#frame.detail.append(this.#head.element);
    this.#frame.root.classList.add("lk-a-empty");

    this.#source = new PatternSource(
      model,
      live,
      {
        patterns: (patterns) => this.#show(patterns),
        head: () => this.#look(),
        progress: (share) => (this.#prompt.progress = share),
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
    this.#prompt.text = this.#spec.prompt;
    this.#switch();
    this.#source.read(this.#question(), this.#chosenHead());
  }

  #question(): Question {
    const { prompt, show, hide_first, pick, by, ablated } = this.#spec;
    return { prompt, show, hide_first, pick, by, ablated };
  }

  // --- the spec, from here, from Python, from a linked view and from the history

  /** A change made here: noted in the history, sent to Python, told to linked views, drawn. */
  #change(patch: Partial<Spec>, again = false): void {
    const spec = { ...this.#spec, ...patch };
    const fields = changedFields(this.#spec, spec);
    if (fields.length) this.#history.record(this.#spec, fields);
    this.#write(spec, fields);
    if (fields.includes("selection")) this.#linked.announce(spec.selection);
    if (again) this.#source.read(this.#question(), this.#chosenHead());
  }

  #write(spec: Spec, fields: readonly (keyof Spec)[]): void {
    if (!fields.length) return;
    this.#spec = spec;
    this.#model.set("spec", spec);
    this.#model.save_changes();
    this.#apply(() => this.#source.read(this.#question(), this.#chosenHead()));
  }

  #restore(spec: Spec | undefined): void {
    if (!spec) return;
    const fields = changedFields(this.#spec, spec);
    this.#prompt.text = spec.prompt;
    this.#write(spec, fields);
    if (fields.includes("selection")) this.#linked.announce(spec.selection);
    this.#reveal();
  }

  /** Python, or another view of the same widget, has changed the spec. */
  #changedOutside(): void {
    const spec = readSpec(this.#model.get("spec"));
    const fields = changedFields(this.#spec, spec);
    if (!fields.length) return;
    this.#spec = spec;
    if (fields.includes("prompt") && !this.#source.typing) this.#prompt.text = spec.prompt;
    this.#apply(() => {
      if (!this.#source.typing) this.#source.readAfterOthers(() => this.#source.read(this.#question(), this.#chosenHead()));
    });
    if (fields.includes("selection")) this.#reveal();
  }

  /** Chooses what a linked view chose, as far as it is here. */
  #follow({ layer, head, pos, key }: Fields): Selection | null {
    const { patterns } = this.#source;
    const { selection } = this.#spec;
    if (!patterns || !selection) return null;
    const next = { ...selection };
    if (typeof layer === "number" && patterns.layers.includes(layer)) next.layer = layer;
    if (typeof head === "number" && patterns.has([next.layer, head])) next.head = head;
    const within = (at: unknown): at is number => typeof at === "number" && at >= 0 && at < patterns.positions;
    if (within(pos)) next.pos = pos;
    if (within(key)) next.key = key;
    const spec = { ...this.#spec, selection: next };
    this.#write(spec, changedFields(this.#spec, spec));
    this.#reveal();
    return next;
  }

  /** Draws the spec, and asks for what is lacking. */
  #apply(ask: () => void): void {
    this.#switch();
    if (this.#facts.live && !this.#source.answered(this.#question())) ask();
    // A head in full needs no computing: it does not wait for the rest.
    this.#source.readHead(this.#chosenHead() ?? [0, 0], this.#spec.show);
    this.#look();
  }

  #switch(): void {
    this.#shows.value = this.#spec.show;
    this.#firsts.value = this.#spec.hide_first ? "hidden" : "shown";
    this.#picks.value = this.#spec.pick;
  }

  // --- drawing

  #show(patterns: Patterns): void {
    this.#frame.error = null;
    this.#frame.root.classList.remove("lk-a-empty");
    this.#prompt.field.removeAttribute("aria-invalid");
    const { ms, recomputed } = patterns.message;
    const done = `${whole(recomputed)} of ${whole(patterns.positions)} positions recomputed`;
    const facts = [this.#facts.dtype, this.#facts.device];
    this.#frame.facts = [...facts, ...(this.#facts.live ? [milliseconds(ms), done] : [])].join(" · ");
    if (this.#hovered && this.#hovered.pos >= patterns.positions) this.#hovered = null;
    this.#look();
    this.#source.readHead(this.#chosenHead() ?? [0, 0], this.#spec.show);
    this.#reveal();
  }

  #fail(text: string): void {
    this.#frame.error = text;
    this.#prompt.field.setAttribute("aria-invalid", "true");
  }

  #themed(): void {
    // The frame tells its theme while it is being made, before there is anything to paint.
    if (!this.#source) return;
    this.#ink = inkOf(this.#frame.root, this.#frame.theme.theme);
    this.#look();
  }

  #resized(): void {
    this.#prompt.fit();
    const width = this.#frame.root.clientWidth;
    if (width === 0 || !this.#multiples) return;
    if (!this.#ink) this.#ink = inkOf(this.#frame.root, this.#frame.theme.theme);
    if (Math.abs(width - this.#width) > SCROLLBAR - 2) {
      this.#width = width;
      const room = width - SCROLLBAR;
      const narrow = this.#frame.root.classList.contains("lk-narrow");
      const taken = this.#multiples.fit(narrow ? room : Math.round(room * LEFT), this.#facts.heads, !narrow);
      this.#multiples.element.style.width = `${taken}px`;
      this.#head.room = narrow ? room : room - taken - BETWEEN;
    }
    this.#look();
    this.#reveal();
  }

  /** Brings all parts in step with the spec and with what is here. */
  #look(): void {
    const { patterns } = this.#source;
    const head = this.#chosenHead();
    if (!patterns || !head || !this.#width) return;
    this.#ink ??= inkOf(this.#frame.root, this.#frame.theme.theme);
    const { pick, ablated } = this.#spec;
    const mode = patterns.modes.includes(modeOf(this.#spec)) ? modeOf(this.#spec) : (patterns.modes[0] ?? "");
    this.#multiples.show(patterns, { mode, pick, chosen: head, ablated }, this.#ink);
    this.#lookAtHead(patterns, head, this.#ink);
  }

  #lookAtHead(patterns: Patterns, head: Head, ink: Ink): void {
    const weights = patterns.weights(head, this.#spec.show, this.#spec.hide_first);
    this.#head.show(patterns, this.#spec, head, weights, this.#hovered, ink, this.#facts.live);
  }

  /** The chosen head where it is here, else the first. */
  #chosenHead(): Head | null {
    const { patterns } = this.#source;
    const { selection } = this.#spec;
    const chosen: Head | null = selection && [selection.layer, selection.head];
    if (!patterns) return chosen;
    return chosen && patterns.has(chosen) ? chosen : [patterns.layers[0] as number, 0];
  }

  #place(): Place | null {
    const { pos, key } = this.#spec.selection ?? { pos: null, key: null };
    const within = (at: number | null): at is number => at !== null && at < (this.#source.patterns?.positions ?? 0);
    return within(pos) && within(key) ? { pos, key } : null;
  }

  #reveal(): void {
    const { patterns } = this.#source;
    const head = this.#chosenHead();
    const place = this.#place();
    if (!patterns || !head || !this.#width) return;
    // Only to what is chosen anew, or stands elsewhere: who has scrolled away and types goes on looking there.
    const at = JSON.stringify([head, place, this.#multiples.tiles.boxOf(head)]);
    if (at === this.#scrolledTo) return;
    this.#scrolledTo = at;
    this.#multiples.tiles.reveal(head);
    if (place) this.#head.pattern.reveal(place);
  }

  // --- what one can do

  #select(patch: Partial<Selection>): void {
    const head = this.#chosenHead();
    if (!head) return;
    const now = { layer: head[0], head: head[1], pos: null, key: null, ...this.#spec.selection };
    this.#change({ selection: { ...now, ...patch } });
    this.#reveal();
  }

  #chooseHead([layer, head]: Head): void {
    this.#select({ layer, head });
  }

  #choosePlace({ pos, key }: Place): void {
    this.#select({ pos, key });
  }

  #hover(place: Place | null): void {
    this.#hovered = place;
    const { patterns } = this.#source;
    const head = this.#chosenHead();
    if (patterns && head && this.#ink) this.#lookAtHead(patterns, head, this.#ink);
  }

  #ablate(): void {
    const head = this.#chosenHead();
    if (!head || !this.#facts.live || !this.#source.patterns) return;
    const { ablated } = this.#spec;
    const others = ablated.filter((other) => !sameHead(other, head));
    this.#change({ ablated: others.length < ablated.length ? others : [...ablated, head] });
  }

  #key(event: KeyboardEvent, inPattern: boolean): void {
    const { patterns } = this.#source;
    const head = this.#chosenHead();
    if (!patterns || !head || event.altKey || event.shiftKey) return;
    const plain = !event.ctrlKey && !event.metaKey;
    const letter = plain ? event.key.toLowerCase() : "";
    const step = event.key === "PageUp" ? 1 : event.key === "PageDown" ? -1 : null;
    if (letter === "a" && this.#facts.live) this.#ablate();
    else if (letter === "v") this.#change({ show: this.#spec.show === "pattern" ? "value-weighted" : "pattern" });
    else if (letter === "f") this.#change({ hide_first: !this.#spec.hide_first });
    else if (event.key === "Escape") {
      if (!this.#frame.closeKeys() && this.#spec.selection) this.#select({ pos: null, key: null });
    } else if (step !== null) this.#chooseHead(otherLayer(patterns, head, step) ?? head);
    else if (inPattern) {
      const causal = this.#head.causal;
      const last = patterns.positions - 1;
      // The first key leads to the end of the prompt, whence the prediction comes.
      const from = this.#place();
      const to = from ? walkCells(event, from, patterns.positions, causal) : walkCells(event, { pos: last, key: last }, patterns.positions, causal) && { pos: last, key: last };
      if (!to) return;
      this.#choosePlace(to);
    } else {
      const to = walkHeads(event, this.#multiples.tiles.order, head);
      if (!to) return;
      this.#chooseHead(to);
    }
    handled(event);
  }

  async #copy(): Promise<void> {
    const { patterns } = this.#source;
    const head = this.#chosenHead();
    if (!patterns || !head) return;
    const code = pythonOf(patterns, this.#spec, head);
    if (await copyText(code, this.#frame.root)) this.#head.note("Copied.");
    else this.#head.note("To be copied by hand:", code);
  }
}
