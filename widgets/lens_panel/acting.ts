// Acting along a token's direction: steer, swap or ablate, and what the model writes before, after, and with a placebo.
import { button, make } from "../shared/dom.ts";
import { Requests } from "../shared/requests.ts";
import { Segmented } from "../shared/segmented.ts";
import { tokenElement, tokenText, type Piece } from "../shared/tokens.ts";
import { decodeAll, type ArrayEntry, type Numbers } from "../shared/wire.ts";
import { Note } from "../lens_table/note.ts";
import type { Act } from "../lens_table/spec.ts";
import type { Doings, Looked } from "./contract.ts";
import { Outcome, type Written } from "./outcome.ts";

const COUNT = 12;
const STRENGTHS: Readonly<Record<Act["how"], { readonly usual: number; readonly ends: readonly [number, number]; readonly step: number }>> = {
  steer: { usual: 0.05, ends: [-0.3, 0.3], step: 0.01 },
  swap: { usual: 1, ends: [0, 3], step: 0.1 },
  ablate: { usual: 1, ends: [0, 2], step: 0.1 },
};

interface Reply {
  readonly kind: string;
  readonly id: string;
  readonly message?: string;
  readonly token: number;
  readonly with: number | null;
  readonly python: string;
  readonly pieces: readonly (readonly [number, Piece])[];
  readonly arrays: readonly ArrayEntry[];
}

export class Acting {
  readonly element = make("div", "lk-section lk-acting");
  readonly #hows: Segmented<Act["how"]>;
  readonly #token: HTMLInputElement;
  readonly #other: HTMLInputElement;
  readonly #with = make("label", "lk-word");
  readonly #layers: readonly [HTMLInputElement, HTMLInputElement];
  readonly #from = make("span", "lk-begins");
  readonly #strength = make("input", "lk-slider");
  readonly #amount = make("output", "lk-amount");
  readonly #line = make("div", "lk-progress lk-unknown");
  readonly #error = make("div", "lk-act-error");
  readonly #outcome: Outcome;
  readonly #note: Note;
  readonly #requests: Requests<Record<string, unknown>>;
  #looked: Looked | null = null;
  #asked = "";
  #seed = 0;
  #python = "";
  readonly #pieces = new Map<number, Piece>();

  constructor(private readonly doings: Doings) {
    const { signal, model } = doings;
    const hows = (["steer", "swap", "ablate"] as const).map((value) => ({ value, label: value }));
    this.#hows = new Segmented<Act["how"]>("act", hows, signal, (how) => this.#change({ how, strength: STRENGTHS[how].usual }));
    const field = (name: string, taken: (text: string) => void): HTMLInputElement => {
      const element = make("input", "lk-word-field");
      element.setAttribute("aria-label", name);
      element.spellcheck = false;
      element.autocomplete = "off";
      element.addEventListener("change", () => taken(element.value), { signal });
      return element;
    };
    this.#token = field("token", (token) => this.#change({ token }));
    this.#other = field("swap with", (other) => this.#change({ with: other || null }));
    this.#with.append("with", this.#other);
    const layer = (name: string, at: 0 | 1): HTMLInputElement => {
      const element = field(name, (text) => this.#band(at, Number(text)));
      element.type = "number";
      [element.min, element.max, element.className] = ["0", String(doings.facts.layers - 1), "lk-small"];
      return element;
    };
    this.#layers = [layer("first layer", 0), layer("last layer", 1)];
    this.#strength.type = "range";
    this.#strength.setAttribute("aria-label", "strength");
    this.#strength.addEventListener("input", () => this.#change({ strength: Number(this.#strength.value) }), { signal });
    // The arrows move the slider and the numbers: they are not for the notebook.
    this.element.addEventListener("keydown", (event) => this.#key(event), { signal });
    const close = button("Close", () => doings.change({ act: null }), signal);
    const again = button("Another placebo", () => this.#again(), signal);
    const copy = button("Copy as Python", () => void this.#copy(), signal);
    this.#outcome = new Outcome((id) => this.#pieces.get(id));
    this.#note = new Note(signal);
    this.#error.setAttribute("role", "alert");
    this.element.append(
      make("div", "lk-act-head", this.#hows.element, make("label", "lk-word", this.#token), this.#with),
      make("div", "lk-act-where", make("span", "", "layers"), this.#layers[0], "to", this.#layers[1], this.#from),
      make("label", "lk-act-where", make("span", "", "strength"), this.#strength, this.#amount),
      make("div", "lk-act-line", this.#line),
      this.#error,
      this.#outcome.element,
      make("div", "lk-actions", again, copy, close),
      this.#note.element,
    );
    this.element.hidden = this.#line.hidden = true;
    this.#requests = new Requests((message) => model.send(message));
    const heard = (message: Reply, buffers: DataView[]): void => this.#hear(message, buffers);
    model.on("msg:custom", heard);
    signal.addEventListener("abort", () => {
      model.off("msg:custom", heard);
      this.#requests.drop();
    });
  }

  /** To the word that is still missing. */
  focus(): void {
    if (this.#looked?.spec.act?.how === "swap") this.#other.focus();
  }

  #key(event: KeyboardEvent): void {
    if (event.key.startsWith("Arrow")) event.stopPropagation();
    if (event.key !== "Escape") return;
    event.preventDefault();
    event.stopPropagation();
    this.doings.change({ act: null });
  }

  #change(patch: Partial<Act>): void {
    const act = this.#looked?.spec.act;
    if (act) this.doings.change({ act: { ...act, ...patch } });
  }

  #band(at: 0 | 1, layer: number): void {
    const act = this.#looked?.spec.act;
    if (!act || !Number.isFinite(layer)) return;
    const other = act.layers[1 - at] as number;
    this.#change({ layers: at ? [Math.min(other, layer), layer] : [layer, Math.max(other, layer)] });
  }

  #again(): void {
    this.#seed += 1;
    if (this.#looked) this.show(this.#looked, false);
  }

  /** `busy`: while tokens are being written, their prompt changes all the time. */
  show(looked: Looked, busy: boolean): void {
    this.#looked = looked;
    const { spec, answer } = looked;
    const act = this.doings.facts.live ? spec.act : null;
    if (!act && !this.element.hidden) this.#stop();
    this.element.hidden = !act;
    if (!act || busy) return;
    for (const id of answer.first.pieces) this.#pieces.set(...id);
    this.#fill(act, looked);
    const ready = act.how !== "swap" || act.with !== null;
    const { prompt, written } = answer.message;
    const { how, token, strength, layers, pos } = act;
    const question = { prompt, written, lens: spec.lens, how, token, with: act.with, strength, layers, pos, count: COUNT, seed: this.#seed };
    const key = JSON.stringify(question);
    if (key === this.#asked) return;
    this.#asked = key;
    this.#requests.drop();
    if (!ready) {
      this.#outcome.clear();
      this.#error.textContent = "";
      return;
    }
    this.#line.hidden = false;
    this.#requests.soon(() => this.#requests.ask("act", question));
  }

  #stop(): void {
    this.#asked = "";
    this.#requests.ask("act", { how: null });
    this.#line.hidden = true;
    this.#outcome.clear();
    this.#error.textContent = "";
  }

  #fill(act: Act, { answer }: Looked): void {
    this.#hows.value = act.how;
    this.#word(this.#token, act.token);
    this.#word(this.#other, act.with);
    this.#with.hidden = act.how !== "swap";
    this.#layers.forEach((element, at) => {
      if (element !== activeIn(element)) element.value = String(act.layers[at]);
    });
    const { ends, step } = STRENGTHS[act.how];
    [this.#strength.min, this.#strength.max, this.#strength.step] = [...ends.map(String), String(step)] as [string, string, string];
    this.#strength.value = String(act.strength);
    this.#amount.textContent = act.strength.toFixed(step < 0.1 ? 2 : 1).replace("-", "−");
    const { first } = answer;
    const at = Math.min(Math.max(1, act.pos), first.positions - 1);
    this.#from.replaceChildren("starting at ", at > 0 ? tokenElement(first.piece(first.tokenId(at))) : "the next token");
  }

  /** Shows a word in its field, unless somebody types there. */
  #word(field: HTMLInputElement, word: Act["token"] | null): void {
    if (field === activeIn(field)) return;
    const piece = typeof word === "number" ? this.#pieces.get(word) : word;
    field.value = typeof piece === "string" ? piece.replace(/^ /, "") : piece ? tokenText(piece) : "";
  }

  #hear(message: Reply, buffers: DataView[]): void {
    const { kind, id } = message;
    const shows = kind === "acting" || kind === "acted";
    // All views of one widget act alike: what another has asked for is the answer here, too, and what it has overtaken is
    // waited for no longer.
    const wanted = this.#requests.isOwn(id) ? this.#requests.isNewest(id) && (shows || kind === "error") : shows;
    if (!wanted || !this.#looked?.spec.act) return;
    this.#line.hidden = kind !== "acting";
    this.#error.textContent = message.kind === "error" ? (message.message ?? "") : "";
    if (message.kind === "error") {
      this.#outcome.clear();
      return;
    }
    for (const [id, piece] of message.pieces) this.#pieces.set(id, piece);
    this.#python = message.python;
    const arrays: ReadonlyMap<string, Numbers> = decodeAll(message.arrays, buffers);
    this.#outcome.show({ arrays, token: message.token, other: message.with, whole: message.kind === "acted" } satisfies Written);
  }

  async #copy(): Promise<void> {
    if (!this.#python) return;
    if (await this.doings.copyText(this.#python)) this.#note.say("Copied.");
    else this.#note.say("To be copied by hand:", this.#python);
  }
}

/** What has the focus around an element, in a shadow root too. */
function activeIn(element: Element): Element | null {
  return (element.getRootNode() as Document | ShadowRoot).activeElement;
}
