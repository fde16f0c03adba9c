// The circuit graph: keeps spec, graph and picture in step, and turns what a person does into changes of the spec.
import type { AnyModel } from "@anywidget/types";
import { copyText } from "../shared/clipboard.ts";
import { Frame } from "../shared/frame.ts";
import { History } from "../shared/history.ts";
import { handled, isTyping } from "../shared/keys.ts";
import { Linked, type Fields } from "../shared/linked.ts";
import { make } from "../shared/dom.ts";
import { Detail } from "./detail.ts";
import { ablating, folding, groupOf, naming, pinning, ungrouping } from "./doing.ts";
import { keysOf, walk } from "./hands.ts";
import { layOut, type Layout } from "./layout.ts";
import { Legend } from "./legend.ts";
import { Scene, shown } from "./scene.ts";
import { followed, Looking } from "./looking.ts";
import { Second, shownOf } from "./second.ts";
import { Slider } from "./sliders.ts";
import { CircuitSource } from "./source.ts";
import { aboutOf, changedFields, footOf, readSpec, type Facts, type Selection, type Spec } from "./spec.ts";
import { Stage } from "./stage.ts";
import { saidOf, tipOf } from "./words.ts";

export type Model = AnyModel<{ spec: Spec; facts: Facts }>;

/** Of the detail beside the picture, with the space between them. */
const BESIDE = 372;
/** So many milliseconds without another node, and the pointer rests. */
const REST = 60;
/** A change of these makes another picture. */
const DRAWN: readonly (keyof Spec)[] = ["nodes", "edges", "pinned", "groups", "folded"];

export class View {
  readonly #model: Model;
  readonly #facts: Facts;
  readonly #frame: Frame;
  readonly #sliders: { readonly nodes: Slider; readonly edges: Slider };
  readonly #stage: Stage;
  readonly #legend = new Legend();
  readonly #detail: Detail;
  readonly #second: Second;
  readonly #source: CircuitSource;
  readonly #linked: Linked;
  readonly #history = new History<Spec>();
  readonly #looking = new Looking();
  #spec: Spec;
  #scene: Scene | null = null;
  #layout: Layout | null = null;
  #room = 0;
  #resting: ReturnType<typeof setTimeout> | undefined;

  constructor(model: Model, el: HTMLElement, signal: AbortSignal) {
    this.#model = model;
    this.#facts = model.get("facts");
    this.#spec = readSpec(model.get("spec"));
    const { live, title } = this.#facts;
    this.#frame = new Frame(title, keysOf(live && this.#facts.model !== null), signal, {
      themed: () => this.#paint(),
      resized: () => this.#resized(),
      undo: () => this.#restore(this.#history.undo(this.#spec)),
      redo: () => this.#restore(this.#history.redo(this.#spec)),
    });
    this.#frame.root.classList.add("lk-circuit");
    this.#frame.detail.setAttribute("aria-label", "The chosen node");
    this.#frame.about = aboutOf(this.#facts);
    this.#frame.root.addEventListener("keydown", (event) => this.#shortcut(event), { signal });
    this.#sliders = {
      nodes: new Slider("nodes", (nodes) => this.#change({ nodes }), signal),
      edges: new Slider("edges", (edges) => this.#change({ edges }), signal),
    };
    this.#frame.switches.append(this.#sliders.nodes.element, this.#sliders.edges.element);
    this.#stage = new Stage(
      {
        hovered: (item) => this.#hover(item),
        clicked: (item, more) => (more && item !== null ? this.#gatherOne(item) : this.#select(item)),
        twice: (item) => this.#fold(item),
        gathered: (items, more) => this.#gather(items, more),
        pressed: (event) => this.#key(event),
      },
      signal,
    );
    this.#source = new CircuitSource(
      model,
      live,
      {
        graph: () => this.#arrived(),
        card: () => this.#look(),
        ablated: () => this.#look(),
        progress: (share) => (this.#stage.progress = share),
        error: (text) => (this.#frame.error = text),
        silent: () => (this.#frame.facts = "waiting for the kernel…"),
      },
      signal,
    );
    this.#detail = new Detail(
      this.#frame.detail,
      {
        go: (item) => this.#select(item, true),
        look: (item) => this.#hover(item, true),
        pin: () => this.#pin(),
        group: () => this.#startGroup(),
        named: (name) => this.#name(name),
        fold: () => this.#fold(this.#chosen),
        ungroup: () => this.#do(ungrouping(this.#spec, this.#names)),
        ablate: () => this.#ablate(),
        copy: () => void this.#copy(),
        left: () => this.#stage.scroller.focus({ preventScroll: true }),
      },
      signal,
    );
    this.#second = new Second(
      model,
      {
        came: (panel, css) => {
          this.#frame.root.prepend(make("style", "", css));
          this.#detail.ablation.append(panel.ablation);
          this.#detail.card.append(panel.card);
        },
        change: (to) => this.#change(to),
        error: (text) => (this.#frame.error = text),
      },
      signal,
    );
    this.#frame.picture.append(this.#stage.element, this.#legend.element);
    this.#linked = new Linked(model, signal, (fields) => this.#follow(fields));
    const changed = (): void => this.#changedOutside();
    model.on("change:spec", changed);
    signal.addEventListener("abort", () => {
      model.off("change:spec", changed);
      clearTimeout(this.#resting);
    });
    el.append(this.#frame.root);
    this.#frame.theme.look();
  }

  // --- the spec, from here, from Python, from a linked view and from the history

  /** A change made here: noted in the history, sent to Python, told to linked views, drawn. */
  #change(patch: Partial<Spec>): void {
    const spec = { ...this.#spec, ...patch };
    const fields = changedFields(this.#spec, spec);
    if (fields.length) this.#history.record(this.#spec, fields);
    this.#write(spec, fields);
    if (fields.includes("selection")) this.#linked.announce(spec.selection);
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
    this.#looking.gathered = [];
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
    this.#apply(fields);
    if (fields.includes("selection")) this.#reveal();
  }

  #follow(fields: Fields): Selection | null {
    const selection = this.#scene && followed(this.#scene, this.#spec.selection, fields);
    if (!selection) return null;
    const spec = { ...this.#spec, selection };
    this.#looking.hovered = null;
    this.#write(spec, changedFields(this.#spec, spec));
    this.#reveal();
    return selection;
  }

  #apply(fields: readonly (keyof Spec)[]): void {
    if (fields.includes("ablated") || fields.includes("placebo")) {
      this.#frame.error = null;
      this.#source.ablate(this.#spec.ablated, this.#spec.placebo);
    }
    if (fields.some((field) => DRAWN.includes(field))) this.#build();
    else this.#look();
  }

  // --- drawing

  #arrived(): void {
    this.#frame.error = null;
    this.#frame.facts = footOf(this.#facts);
    this.#looking.gathered = [];
    this.#build();
    this.#reveal(true);
    this.#source.ablate(this.#spec.ablated, this.#spec.placebo);
  }

  /** Prunes, groups, lays out and paints anew. */
  #build(): void {
    const { network } = this.#source;
    if (!network) return;
    this.#scene = new Scene(network, shown(network, this.#spec), this.#spec);
    this.#layout = null;
    this.#looking.hovered = null;
    this.#sliders.nodes.show(this.#spec.nodes, this.#scene.nodes, network.count);
    this.#sliders.edges.show(this.#spec.edges, this.#scene.edges, network.edges);
    this.#paint();
  }

  #resized(): void {
    const { root } = this.#frame;
    const room = root.clientWidth - 6 - (root.classList.contains("lk-narrow") ? 0 : BESIDE);
    if (room === this.#room) return;
    [this.#room, this.#layout] = [room, null];
    this.#paint();
    this.#reveal(true);
  }

  #paint(): void {
    // The frame tells its theme while it is being made, before there is anything to paint.
    const scene = this.#scene;
    if (!scene || this.#room <= 0) return;
    this.#layout ??= layOut(scene, this.#room);
    this.#stage.show(scene, this.#layout, this.#frame.theme.theme);
    this.#legend.show(scene.network, this.#layout);
    this.#look();
  }

  /** Brings marks and detail in step with what is looked at. */
  #look(): void {
    this.#light();
    this.#tell();
  }

  #tell(): void {
    clearTimeout(this.#resting);
    const [scene, spec, chosen] = [this.#scene, this.#spec, this.#chosen];
    if (!scene) return;
    const { hovered, gathered } = this.#looking;
    const item = chosen ?? hovered;
    const live = this.#facts.live && scene.network.header.live;
    this.#detail.show({ scene, spec, item, chosen: chosen !== null, nodes: this.#looking.nodes(scene, spec), gathered, live });
    this.#second.show(shownOf(scene, gathered.length ? null : chosen, spec, this.#source, live, this.#frame.theme.theme));
  }

  #light(): void {
    const scene = this.#scene;
    if (!scene || !this.#layout) return;
    const { hovered } = this.#looking;
    this.#stage.light(this.#looking.lights(scene, this.#spec));
    this.#stage.tip(hovered, ...(hovered === null ? [] : tipOf(scene, hovered)));
  }

  /** Brings what is chosen into view; at first, where nothing is, the target. */
  #reveal(first = false): void {
    const item = this.#chosen ?? (first && this.#scene ? this.#scene.of(this.#scene.network.count - 1) : null);
    if (item !== null) this.#stage.reveal(item);
  }

  // --- what is chosen

  get #chosen(): number | null {
    return this.#scene && this.#looking.chosen(this.#scene, this.#spec);
  }

  /** The nodes that buttons and keys act on, by name. */
  get #names(): string[] {
    const scene = this.#scene;
    return scene ? this.#looking.nodes(scene, this.#spec).map((node) => scene.network.names[node] as string) : [];
  }

  /** Lights what is under the pointer. Once it rests, and nothing is chosen, the detail tells of it: of each on its way it would flicker. */
  #hover(item: number | null, listed = false): void {
    if (item === this.#looking.hovered) return;
    this.#looking.hovered = item;
    this.#light();
    clearTimeout(this.#resting);
    if (!listed && this.#chosen === null && !this.#looking.gathered.length) this.#resting = setTimeout(() => this.#tell(), REST);
  }

  /** Chooses an item, or none; what is gathered is forgotten, unless one only walks. */
  #select(item: number | null, reveal = false, walks = false): void {
    const scene = this.#scene;
    if (!scene) return;
    if (walks) this.#looking.hovered = null;
    else this.#looking.forget();
    const selection = item === null ? null : scene.network.selection(scene.item(item).lead);
    if (JSON.stringify(selection) === JSON.stringify(this.#spec.selection)) this.#look();
    else this.#change({ selection });
    if (item === null) return;
    if (reveal) this.#stage.reveal(item);
    this.#stage.say(saidOf(scene, item));
  }

  #gatherOne(item: number): void {
    this.#looking.gatherOne(this.#scene as Scene, this.#spec, item);
    this.#look();
  }

  #gather(items: readonly number[], more: boolean): void {
    this.#looking.gather(this.#scene as Scene, items, more);
    this.#look();
    if (this.#looking.gathered.length) setTimeout(() => this.#detail.name());
  }

  // --- what one can do

  #do(change: Partial<Spec> | null): void {
    if (change) this.#change(change);
  }

  #pin(): void {
    this.#do(pinning(this.#spec, this.#names));
  }

  #startGroup(): void {
    if (this.#scene && groupOf(this.#spec, this.#names) === null) this.#looking.gathered = this.#looking.nodes(this.#scene, this.#spec);
    this.#look();
    this.#detail.name();
  }

  #name(name: string): void {
    if (!this.#scene) return;
    const change = naming(this.#scene.network, this.#spec, this.#looking.gathered, this.#names, name);
    this.#looking.forget();
    if (change && !changedFields(this.#spec, { ...this.#spec, ...change }).length) this.#detail.note("That name is taken.");
    this.#do(change);
    this.#look();
  }

  #fold(item: number | null): void {
    const scene = this.#scene;
    if (scene && item !== null) this.#do(folding(this.#spec, scene.item(item).nodes.map((node) => scene.network.names[node] as string)));
  }

  #ablate(): void {
    const { network } = this.#source;
    if (network?.header.live && this.#facts.live) this.#do(ablating(network, this.#spec, this.#names));
  }

  #escape(): void {
    if (this.#frame.closeKeys()) return;
    if (this.#looking.gathered.length) {
      this.#looking.gathered = [];
      this.#look();
    } else if (this.#spec.selection) this.#select(null);
    else if (this.#facts.live && this.#spec.ablated.length) this.#change({ ablated: [] });
  }

  /** Keys that work wherever nothing is being typed. */
  #shortcut(event: KeyboardEvent): void {
    const { target } = event;
    const slides = target instanceof Element && target.matches("input[type=range]");
    if (slides && (event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "z") {
      handled(event);
      this.#restore(event.shiftKey ? this.#history.redo(this.#spec) : this.#history.undo(this.#spec));
    } else if (slides && event.key === "Escape") {
      handled(event);
      this.#stage.scroller.focus({ preventScroll: true });
    }
    if (isTyping(target) || event.ctrlKey || event.metaKey || event.altKey) return;
    const does = {
      "/": () => this.#sliders.nodes.input.focus({ preventScroll: true }),
      p: () => this.#pin(),
      g: () => this.#startGroup(),
      f: () => this.#fold(this.#chosen),
      a: () => this.#ablate(),
    }[event.key.toLowerCase()];
    if (!does) return;
    handled(event);
    does();
  }

  /** Keys in the picture. */
  #key(event: KeyboardEvent): void {
    const [scene, layout] = [this.#scene, this.#layout];
    if (!scene || !layout || event.ctrlKey || event.metaKey || event.altKey) return;
    const to = walk(event, scene, layout, this.#chosen);
    if (to !== null) this.#select(to, true, true);
    else if (event.key === "Enter") this.#pin();
    else if (event.key === " ") this.#chosen !== null && this.#gatherOne(this.#chosen);
    else if (event.key === "Escape") this.#escape();
    else return;
    handled(event);
  }

  async #copy(): Promise<void> {
    const { network } = this.#source;
    const panel = await this.#second.panel();
    if (!panel) return;
    const code = panel.pythonOf(this.#spec, this.#names, this.#facts.live && network?.header.live ? network.header.layers : null);
    if (await copyText(code, this.#frame.root)) this.#detail.note("Copied.");
    else this.#detail.note("To be copied by hand:", code);
  }
}
