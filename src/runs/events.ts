import { z } from "zod";

/**
 * The events of a run: what training writes to `events.jsonl` (one JSON object a line), and what the terminal display,
 * the Studio and reports are fed with. One schema, many readers.
 *
 * Numbers that JSON does not have are written as the strings "NaN", "Infinity" and "-Infinity" (see json.ts): a
 * diverging loss must be seen, not turned into null.
 */

const t = z.number().describe("milliseconds since 1970");
const stage = z.string().describe("the stage's name, such as pretrain");
const step = z.number().int().nonnegative().describe("optimizer steps done in this stage");

/** A number that may be NaN or infinite. */
const anyNumber = z.union([z.number(), z.nan(), z.literal(Infinity), z.literal(-Infinity)]);

export const runEvent = z.object({
  t,
  type: z.literal("run"),
  status: z.enum(["started", "resumed", "finished", "stopped", "failed"]),
  message: z.string().optional(),
});

export const stageEvent = z.object({
  t,
  type: z.literal("stage"),
  stage,
  index: z.number().int().nonnegative().describe("position among the run's stages, from 0"),
  count: z.number().int().positive().describe("number of stages of the run"),
  status: z.enum(["started", "resumed", "finished", "skipped"]),
  seconds: z.number().optional().describe("time spent in the stage, over all sittings"),
  /** With `resumed`: the step of the checkpoint the stage goes on from. Later events of the stage are superseded. */
  step: step.optional(),
  summary: z.record(z.string(), z.unknown()).optional(),
});

export const progressEvent = z.object({
  t,
  type: z.literal("progress"),
  stage,
  done: z.number(),
  total: z.number(),
  unit: z.string().describe("of done and total, such as steps"),
  rate: anyNumber.describe("units per second"),
  secondsLeft: anyNumber,
});

export const metricsEvent = z.object({
  t,
  type: z.literal("metrics"),
  stage,
  step,
  values: z.record(z.string(), anyNumber),
});

export const sampleEvent = z.object({
  t,
  type: z.literal("sample"),
  stage,
  step,
  prompt: z.string(),
  text: z.string(),
});

export const logEvent = z.object({
  t,
  type: z.literal("log"),
  level: z.enum(["info", "warn", "error"]),
  message: z.string(),
});

export const eventSchema = z.discriminatedUnion("type", [
  runEvent,
  stageEvent,
  progressEvent,
  metricsEvent,
  sampleEvent,
  logEvent,
]);

export type RunEvent = z.infer<typeof runEvent>;
export type StageEvent = z.infer<typeof stageEvent>;
export type ProgressEvent = z.infer<typeof progressEvent>;
export type MetricsEvent = z.infer<typeof metricsEvent>;
export type SampleEvent = z.infer<typeof sampleEvent>;
export type LogEvent = z.infer<typeof logEvent>;
/** One line of `events.jsonl`. */
export type Event = z.infer<typeof eventSchema>;

type WithoutTime<E> = E extends unknown ? Omit<E, "t"> : never;
/** An event as its author writes it; the emitter adds the time. */
export type NewEvent = WithoutTime<Event>;

/** Where events go: the file, the terminal, the Studio. Called in order, one event at a time. */
export type EventSink = (event: Event) => void;

/** Hands each event to every sink, stamped with the time. */
export class Emitter {
  readonly #sinks = new Set<EventSink>();
  readonly #now: () => number;

  constructor(sinks: Iterable<EventSink> = [], now: () => number = Date.now) {
    for (const sink of sinks) this.#sinks.add(sink);
    this.#now = now;
  }

  emit(event: NewEvent): void {
    const stamped = { t: this.#now(), ...event } as Event;
    for (const sink of this.#sinks) sink(stamped);
  }

  /** Adds a sink; the returned function takes it out again. */
  add(sink: EventSink): () => void {
    this.#sinks.add(sink);
    return () => this.#sinks.delete(sink);
  }
}
