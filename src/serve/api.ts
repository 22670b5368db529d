/** What the Studio and the server say to each other under /api. Types only: the Studio imports this file. */
import type { Event as RunEvent } from "../runs/events.ts";
import type { RunState } from "../runs/state.ts";
import type { ErrorBody } from "./errors.ts";
import type { ChatTurn } from "./host.ts";

export type { ChatTurn, ErrorBody, RunEvent };

/** GET /api/models */
export interface ModelInfo {
  id: string;
  created: number;
  contextLength: number;
  description?: string;
  /** Names that it knows speakers by. */
  speakers?: readonly string[];
}

/** GET /api/info */
export interface ServerInfo {
  maxTokens: number;
  choices: number;
}

/** An element of GET /api/runs, newest first. */
export interface RunSummary {
  name: string;
  /** "empty" before the first event; "interrupted" when it was running and its process is gone. */
  status: RunState["status"] | "interrupted";
  /** Epoch milliseconds of the first and the last event. */
  began?: number;
  updated?: number;
  /** The stage that runs, and its place among `stages`. */
  stage?: { name: string; index: number; count: number };
}

/** GET /api/runs/:name */
export interface RunDetail {
  name: string;
  status: RunSummary["status"];
  /** recipe.yaml as it is on disk; absent where there is none yet. */
  recipe?: string;
  /** The recipe's stages in their order, as far as it can be read. */
  stages?: string[];
  hasReport: boolean;
}

/** GET /api/runs/:name/events?offset=N, and each message of its stream: whole lines from byte `offset` up to `next`. */
export interface EventsPage {
  offset: number;
  next: number;
  events: RunEvent[];
  /** True where there is more at `next` already. */
  more: boolean;
  /** True when the file became shorter than the given offset: forget what you have, this begins at 0. */
  reset?: boolean;
}

/** Messages of GET /api/changes: what to load again. */
export type Change = "models" | "runs" | "data";

/** How a reply was sampled. */
export type Settings = Record<string, number | string | null>;

/** POST /api/votes: a thumb for one reply, or which of two replies to the same prompt is better. */
export type NewVote =
  | {
      kind: "thumb";
      /** The conversation up to the reply, the reply's own name last where it has one. */
      prompt: ChatTurn[];
      model: string;
      reply: string;
      value: 1 | -1;
      settings?: Settings;
    }
  | {
      kind: "preference";
      prompt: ChatTurn[];
      chosen: { model: string; reply: string };
      rejected: { model: string; reply: string };
      settings?: Settings;
    };

/** An element of GET /api/votes, newest first. */
export type Vote = NewVote & { id: number; createdAt: string };
