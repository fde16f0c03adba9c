// The keyboard inside a notebook: what a widget handles must not reach the notebook's own shortcuts.

export interface Shortcut {
  /** As written on keycaps, such as `↑ ↓`. */
  readonly caps: readonly string[];
  readonly does: string;
  /** Shown in the foot, not only in the list of all keys. */
  readonly foot?: boolean;
}

/** Whether typing goes into this element, so that letters are text and no commands. */
export function isTyping(target: EventTarget | null): boolean {
  return target instanceof Element && target.matches("textarea, input:not([type=radio]), [contenteditable=true]");
}

export function handled(event: KeyboardEvent): void {
  event.preventDefault();
  event.stopPropagation();
}

/**
 * Stops what a notebook in command mode would take as a command ("x" cuts the cell), and lets through what is meant
 * for it (Ctrl+S, Shift+Enter).
 */
export function keepFromHost(event: KeyboardEvent): void {
  const command = event.ctrlKey || event.metaKey || event.altKey;
  if (isTyping(event.target) ? !command || !/^[s]$/i.test(event.key) : !command && event.key.length === 1) {
    event.stopPropagation();
  }
}
