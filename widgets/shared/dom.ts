// Elements are made one by one, text only as text nodes: nothing in these front-ends parses HTML.

export type Child = Node | string;

export function make<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  className = "",
  ...children: Child[]
): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (children.length) element.append(...children);
  return element;
}

const SVG = "http://www.w3.org/2000/svg";

export function makeSvg<K extends keyof SVGElementTagNameMap>(
  tag: K,
  attributes: Record<string, string | number> = {},
): SVGElementTagNameMap[K] {
  const element = document.createElementNS(SVG, tag);
  set(element, attributes);
  return element;
}

export function set(element: Element, attributes: Record<string, string | number>): void {
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, String(value));
}

export function button(label: string, onClick: () => void, signal: AbortSignal): HTMLButtonElement {
  const element = make("button", "lk-button", label);
  element.type = "button";
  element.addEventListener("click", onClick, { signal });
  return element;
}

let serial = 0;

/** An id that no other view in this document has. */
export function uniqueId(stem: string): string {
  serial += 1;
  return `lk-${stem}-${Math.random().toString(36).slice(2, 7)}${serial}`;
}
