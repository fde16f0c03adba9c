// Linked views: what is chosen in one is chosen in the others of its group, within one page, without asking Python.
//
// How a view takes part (see lens_table/view.ts):
//
//     this.#linked = new Linked(model, signal, (fields) => this.#follow(fields));   // once, in the constructor
//     this.#linked.announce(spec.selection);          // after a person chose here: a click, a key, undo, redo
//
// and its follower, which gets the linked fields that another view chose, such as `{ layer: 9, head: 6 }`:
//
//     #follow(fields: Fields): object | null {
//       // Take the fields that this view has and whose value exists here, leave the others as they are, write the spec
//       // WITHOUT a step in the history and WITHOUT announcing it, and give back the selection that is now chosen, or
//       // null where nothing could be followed.
//     }
//
// Never announce what came from outside (`change:spec`): Python keeps its own halves in step (lenskit/widgets/link.py), and
// an echo of it would chase the pointer. Null selections are not announced: a view that lets go leaves the others alone.
//
// The Python half: derive from `Linkable` (lenskit/widgets/link.py) instead of `HomeThread`. It brings the synced trait
// `links`, a list of `{"group": id, "on": ["layer", "pos", "head"]}`, one for each `lk.widgets.link` the widget is in;
// set `selection_fields` to the keys of `spec["selection"]` and write `follow(fields)`, the same rule in Python.
import type { AnyModel } from "@anywidget/types";

/** Layer, pos (of the query), head, key: whole numbers by name. A value that is none, such as null, is not linked. */
export type Fields = Readonly<Record<string, unknown>>;

interface Link {
  readonly group: string;
  readonly on: readonly string[];
}

interface Said {
  readonly from: object;
  readonly fields: Fields;
  /** The groups that this choice has reached: views that stand in several pass it on, once. */
  readonly reached: ReadonlySet<string>;
}

const BUS = Symbol.for("lenskit.linked");

/** The one bus of this page: each front-end is a bundle by itself, so it is found by a name that all of them know. */
function bus(): EventTarget {
  const page = globalThis as unknown as Record<symbol, EventTarget | undefined>;
  return (page[BUS] ??= new EventTarget());
}

export class Linked {
  readonly #model: AnyModel;
  readonly #follow: (fields: Fields) => object | null;
  #groups = new AbortController();
  #following = false;

  constructor(model: AnyModel, signal: AbortSignal, follow: (fields: Fields) => object | null) {
    this.#model = model;
    this.#follow = follow;
    const changed = (): void => this.#listen();
    model.on("change:links", changed);
    signal.addEventListener("abort", () => {
      model.off("change:links", changed);
      this.#groups.abort();
    });
    this.#listen();
  }

  get #links(): readonly Link[] {
    return (this.#model.get("links") as readonly Link[] | undefined) ?? [];
  }

  #listen(): void {
    this.#groups.abort();
    this.#groups = new AbortController();
    const { signal } = this.#groups;
    for (const { group } of this.#links) bus().addEventListener(group, (event) => this.#hear(event), { signal });
  }

  /** Tells the other views of the groups what was chosen here. */
  announce(selection: object | null | undefined): void {
    // What is followed is passed on below; a view that announces it too, by mistake, starts no echo.
    if (selection && !this.#following) this.#say(selection as Fields, new Set());
  }

  #say(selection: Fields, reached: ReadonlySet<string>): void {
    const links = this.#links.filter(({ group }) => !reached.has(group));
    const all = new Set([...reached, ...links.map(({ group }) => group)]);
    for (const { group, on } of links) {
      const fields = Object.fromEntries(on.filter((name) => Number.isInteger(selection[name])).map((name) => [name, selection[name]]));
      if (Object.keys(fields).length === 0) continue;
      bus().dispatchEvent(new CustomEvent<Said>(group, { detail: { from: this.#model, fields, reached: all } }));
    }
  }

  #hear(event: Event): void {
    const { from, fields, reached } = (event as CustomEvent<Said>).detail;
    // Another view of the same widget gets the same spec.
    if (from === this.#model || this.#following) return;
    this.#following = true;
    try {
      const selection = this.#follow(fields);
      if (selection) this.#say(selection as Fields, reached);
    } finally {
      this.#following = false;
    }
  }
}
