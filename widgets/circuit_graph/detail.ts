// The detail: what is chosen with its numbers, what one can do with it, what feeds it and what it feeds, and its card.
import { percent } from "../feature_browser/list.ts";
import { button, make, type Child } from "../shared/dom.ts";
import { nats, signed } from "../shared/numbers.ts";
import { ablating, groupOf } from "./doing.ts";
import { Lines, linesOf, topLines, type ListEvents } from "./lists.ts";
import { Naming } from "./naming.ts";
import type { Scene } from "./scene.ts";
import { freshName, type Spec } from "./spec.ts";
import { numbersOf, sumOf, titleOf } from "./words.ts";

const counted = (count: number, what: string): string => `${count} ${what}${count === 1 ? "" : "s"}`;

export interface DetailEvents extends ListEvents {
  pin(): void;
  /** Opens the field for a group's name. */
  group(): void;
  named(name: string): void;
  fold(): void;
  ungroup(): void;
  ablate(): void;
  copy(): void;
  left(): void;
}

export interface Looked {
  readonly scene: Scene;
  readonly spec: Spec;
  /** What is hovered or chosen. */
  readonly item: number | null;
  /** Whether it is chosen, so that one can do something with it. */
  readonly chosen: boolean;
  /** The nodes that the buttons act on. */
  readonly nodes: readonly number[];
  readonly gathered: readonly number[];
  /** Whether a model is there that can be asked. */
  readonly live: boolean;
}

export class Detail {
  /** Where the second module puts what it shows. */
  readonly ablation = make("div", "lk-c-slot");
  readonly card = make("div", "lk-c-slot");
  readonly #name = make("h3", "lk-f-title");
  readonly #says = make("div", "lk-c-says");
  readonly #numbers = make("div", "lk-c-numbers");
  readonly #sum = make("div", "lk-c-sum");
  readonly #actions = make("div", "lk-c-actions");
  readonly #pin: HTMLButtonElement;
  readonly #group: HTMLButtonElement;
  readonly #fold: HTMLButtonElement;
  readonly #ungroup: HTMLButtonElement;
  readonly #ablate: HTMLButtonElement;
  readonly #said = make("div", "lk-f-said");
  readonly #fedBy: Lines;
  readonly #feeds: Lines;
  readonly #naming: Naming;
  #saidTimer: ReturnType<typeof setTimeout> | undefined;

  constructor(element: HTMLElement, events: DetailEvents, signal: AbortSignal) {
    this.#pin = button("Pin", () => events.pin(), signal);
    this.#group = button("Group", () => events.group(), signal);
    this.#fold = button("Fold", () => events.fold(), signal);
    this.#ungroup = button("Ungroup", () => events.ungroup(), signal);
    this.#ablate = button("Ablate", () => events.ablate(), signal);
    const copy = button("Copy as Python", () => events.copy(), signal);
    this.#actions.append(this.#pin, this.#group, this.#fold, this.#ungroup, this.#ablate, copy);
    this.#said.setAttribute("role", "status");
    this.#naming = new Naming((name) => events.named(name), () => events.left(), signal);
    [this.#fedBy, this.#feeds] = [new Lines(events, signal), new Lines(events, signal)];
    const head = make("div", "lk-c-head", this.#name, this.#says, this.#numbers, this.#sum);
    element.append(head, this.#actions, this.#naming.element, this.#said, this.ablation, this.#fedBy.element, this.#feeds.element, this.card);
    signal.addEventListener("abort", () => clearTimeout(this.#saidTimer));
  }

  show(looked: Looked): void {
    const { scene, item, gathered } = looked;
    this.#showHead(looked);
    this.#showActions(looked);
    const alone = item !== null && gathered.length === 0;
    if (alone) {
      this.#fedBy.show("Fed by ", linesOf(scene, item, "source"), scene, "nothing drawn");
      this.#feeds.show("Feeds (bar: share) ", linesOf(scene, item, "target"), scene, "nothing drawn");
    } else this.#fedBy.show("Most influential", topLines(scene), scene, "nothing is drawn");
    this.#feeds.element.hidden = !alone;
  }

  #showHead({ scene, spec, item, gathered }: Looked): void {
    const { network } = scene;
    this.#sum.hidden = true;
    if (gathered.length) {
      this.#name.textContent = `${counted(gathered.length, "node")} gathered`;
      this.#says.textContent = "name them to make them one";
      this.#numbers.textContent = `influence ${percent(gathered.reduce((sum, node) => sum + (network.influence[node] as number), 0))}`;
      return;
    }
    if (item === null) {
      this.#name.textContent = "Nothing chosen";
      this.#says.textContent = "hover to see what feeds a node and what it feeds, click to choose, drag around several to group them";
      this.#numbers.textContent = "";
      return;
    }
    const { group, lead, nodes, influence } = scene.item(item);
    this.#name.replaceChildren(...(group === null ? titleOf(network, lead) : ["Group ", make("b", "", group)]));
    this.#says.textContent = group === null ? network.words(lead) : nodes.map((node) => network.short(node)).join(", ");
    const all = spec.groups[group ?? ""]?.length ?? 0;
    const several = `${nodes.length < all ? `${nodes.length} of ` : ""}${counted(all, "node")} · influence ${percent(influence)}`;
    this.#numbers.textContent = group === null ? numbersOf(network, lead) : several;
    if (group === null) this.#showSum(scene, lead);
  }

  /** That it adds up: the value as the sum of its parts. */
  #showSum(scene: Scene, node: number): void {
    const sum = sumOf(scene, node);
    this.#sum.hidden = sum === null;
    if (!sum) return;
    const part = (value: number, what: string): Child[] => [make("span", "lk-c-part", signed(value)), make("span", "", what)];
    const drawn = part(sum.drawn, `by ${counted(sum.drawnEdges, "edge")} drawn`);
    const hidden = sum.hiddenEdges ? part(sum.hidden, `by ${counted(sum.hiddenEdges, "edge")} not drawn`) : [];
    const off = Math.abs(sum.off) > 0.005 * Math.max(1, Math.abs(sum.value)) ? part(sum.off, "missing") : [];
    this.#sum.replaceChildren(...drawn, ...hidden, ...part(sum.bias, "bias"), ...part(sum.rest, "by what is no node"), ...off, make("b", "", nats(sum.value)), make("span", "", "together"));
  }

  #showActions({ scene, spec, item, chosen, nodes, gathered, live }: Looked): void {
    const names = nodes.map((node) => scene.network.names[node] as string);
    const features = nodes.filter((node) => scene.network.isFeature(node));
    const group = gathered.length || item === null ? null : groupOf(spec, names);
    // Where something is only hovered, buttons stay as they are under the pointer's way to them.
    this.#actions.classList.toggle("lk-c-idle", !chosen && gathered.length === 0);
    const pinned = names.length > 0 && names.every((name) => spec.pinned.includes(name));
    this.#pin.textContent = pinned ? "Unpin" : "Pin";
    this.#pin.setAttribute("aria-pressed", String(pinned));
    this.#group.hidden = group !== null;
    this.#fold.hidden = this.#ungroup.hidden = group === null;
    this.#fold.textContent = group !== null && spec.folded.includes(group) ? "Unfold" : "Fold";
    for (const each of [this.#pin, this.#group]) each.disabled = names.length === 0;
    this.#ablate.hidden = !live;
    this.#ablate.disabled = features.length === 0;
    this.#ablate.title = features.length ? "" : "only features can be taken away";
    // Those that are ablated already, and no others.
    const ablated = spec.ablated.length > 0 && ablating(scene.network, spec, names)?.ablated?.length === 0;
    this.#ablate.setAttribute("aria-pressed", String(ablated));
    if (gathered.length) this.#naming.show(freshName(spec.groups), "Group");
    else if (chosen && group !== null) this.#naming.show(group, "Rename");
    else this.#naming.show(null, "");
  }

  /** Opens the field for a name. */
  name(): void {
    this.#naming.open();
  }

  /** Says what became of a click, for a moment; `text` to be copied by hand stays. */
  note(message: string, text = ""): void {
    clearTimeout(this.#saidTimer);
    this.#said.replaceChildren(message);
    if (!text) {
      this.#saidTimer = setTimeout(() => this.#said.replaceChildren(), 2500);
      return;
    }
    const field = make("textarea", "lk-f-byhand");
    field.value = text;
    field.rows = text.split("\n").length;
    field.readOnly = true;
    field.setAttribute("aria-label", "to be copied");
    this.#said.append(field);
    field.select();
  }
}
