// What the lens table and its second module say to each other. Types only: neither holds the other's code.
import type { AnyModel } from "@anywidget/types";
import type { Comparing } from "../lens_table/compared.ts";
import type { Cell, Region } from "../lens_table/grid.ts";
import type { Doing } from "../lens_table/hands.ts";
import type { Answer } from "../lens_table/source.ts";
import type { Facts, Spec } from "../lens_table/spec.ts";

/** What the table does for the panel. */
export interface Doings {
  readonly model: AnyModel;
  readonly facts: Facts;
  readonly signal: AbortSignal;
  change(patch: Partial<Spec>): void;
  /** Lights cells in the picture, until others are lit. */
  light(cells: readonly Cell[]): void;
  makeTarget(id: number): void;
  clearTarget(): void;
  /** Copies the line of Python that reads the cell that is looked at. */
  copy(): void;
  copyText(text: string): Promise<boolean>;
}

/** What is looked at. */
export interface Looked {
  readonly spec: Spec;
  readonly answer: Answer;
  readonly active: Cell;
  readonly pinned: boolean;
  readonly region: Region | null;
  /** Whether two readings are compared. */
  readonly two: boolean;
}

export interface Panel extends Comparing {
  /** Below the cell's own detail, or in its place where two readings are compared. */
  readonly element: HTMLElement;
  /** Below the prompt. */
  readonly strip: HTMLElement;
  show(looked: Looked): void;
  do(what: Doing): void;
  /** Stops what is under way; whether there was something. */
  stop(): boolean;
  /** Says what became of a click. */
  note(message: string, text?: string): void;
}

/** What the module exports. */
export type MakePanel = (doings: Doings) => Panel;
