import { latest, type RunState, type StageState, series } from "../runs/state.ts";
import { bar, curve, formatNumber, formatRate, formatSeconds, padEnd, printable, textWidth, truncate } from "./text.ts";

/** What the display shows, besides the state that the events add up to. */
export interface DisplayInput {
  readonly title: string;
  readonly state: RunState;
  /** Now, in milliseconds since 1970. */
  readonly now: number;
  /** Seconds that stages are expected to take, where that is known beforehand. */
  readonly expected: ReadonlyMap<string, number>;
}

export interface DisplayStyle {
  readonly columns: number;
  /** Lines at most; stages far from the running one are left out. */
  readonly rows?: number;
  readonly unicode: boolean;
  readonly colour: boolean;
}

/** Metrics worth the one curve of a stage, the first that there is; TRL's names for PPO. */
const headlines = ["loss", "objective/scores", "objective/rlhf_reward", "reward", "accuracy"];
/** Others worth a word beside it, with how they are called there. */
const companions: readonly (readonly [metric: string, label: string])[] = [
  ["heldout_loss", "held out"],
  ["bits_per_byte", "bits/byte"],
  ["objective/kl", "KL"],
  ["kl", "KL"],
  ["accuracy", "accuracy"],
];

export function headlineOf(stage: StageState): string | undefined {
  return headlines.find((name) => [...stage.metrics.values()].some((values) => values[name] !== undefined));
}

const shortName = (metric: string) => metric.slice(metric.lastIndexOf("/") + 1).replaceAll("_", " ");

type Paint = (text: string, code: number) => string;

function painter(colour: boolean): Paint {
  return (text, code) => (colour && text !== "" ? `\u001b[${code}m${text}\u001b[0m` : text);
}
const bold = 1;
const dim = 2;
const red = 31;
const green = 32;
const yellow = 33;
const cyan = 36;

/** Seconds until a running stage is done: time goes on between two events, and a stage that is late stays at zero. */
function stageLeft({ progress }: StageState, now: number): number | undefined {
  return progress === undefined ? undefined : Math.max(0, progress.secondsLeft - (now - progress.t) / 1000);
}

/** Seconds until everything is done, and whether some stage's time is not known yet. */
export function timeLeft({ state, expected, now }: DisplayInput): { seconds: number; partial: boolean } {
  let seconds = 0;
  let partial = state.stages.length < state.count;
  for (const stage of state.stages) {
    if (stage.status === "finished" || stage.status === "skipped") continue;
    const left = stage.status === "running" ? stageLeft(stage, now) : undefined;
    const known = left !== undefined && Number.isFinite(left) ? left : expected.get(stage.name);
    if (known === undefined) partial = true;
    else seconds += known;
  }
  return { seconds, partial };
}

/**
 * The display as lines, none wider than `columns`: a headline, a line per stage, and under the running stage its bar and
 * its loss as a small curve.
 */
export function render(
  input: DisplayInput,
  { columns, rows = Number.POSITIVE_INFINITY, unicode, colour }: DisplayStyle,
): string[] {
  const paint = painter(colour);
  const { state, now } = input;
  const lines = [headline(input, columns, unicode, paint)];
  const nameWidth = Math.min(16, Math.max(...state.stages.map(({ name }) => textWidth(name)), 4));
  const blocks = state.stages.map((stage) => stageLines(stage, now, columns, nameWidth, unicode, paint));
  const running = Math.max(
    0,
    state.stages.findIndex(({ status }) => status === "running"),
  );
  // Where the terminal is low, keep the running stage and as much around it as fits.
  let height = 1 + blocks.reduce((sum, block) => sum + block.length, 0);
  const shown = blocks.map(() => true);
  for (let first = 0, last = blocks.length - 1; height > rows && (first < running || last > running); ) {
    const drop = first < running ? first++ : last--;
    shown[drop] = false;
    height -= blocks[drop]!.length;
  }
  lines.push(...blocks.flatMap((block, i) => (shown[i] === true ? block : [])));
  return lines.slice(0, Math.max(1, rows)).map((line) => truncate(line, columns, unicode ? "…" : "~"));
}

function headline(input: DisplayInput, columns: number, unicode: boolean, paint: Paint): string {
  const { state, now, title } = input;
  const elapsed = state.began === undefined ? "" : formatSeconds((now - state.began) / 1000);
  const left = timeLeft(input);
  const about = left.seconds > 0 ? `${left.partial ? "more than " : ""}${formatSeconds(left.seconds)} left` : "";
  const words: Record<RunState["status"], string> = {
    empty: "",
    running: about,
    finished: "done",
    stopped: "stopped",
    failed: "failed",
  };
  const word = words[state.status];
  const name = truncate(printable(title), columns, unicode ? "…" : "~");
  // As much of the clock as fits beside the title.
  const room = columns - textWidth(name) - 2;
  const right = [[elapsed, word].filter(Boolean).join(", "), word, elapsed].find((text) => text.length <= room) ?? "";
  const space = " ".repeat(Math.max(0, columns - textWidth(name) - right.length));
  return `${paint(name, bold)}${space}${paint(right, state.status === "failed" ? red : dim)}`.trimEnd();
}

function stageLines(
  stage: StageState,
  now: number,
  columns: number,
  nameWidth: number,
  unicode: boolean,
  paint: Paint,
): string[] {
  const mark = unicode ? "…" : "~";
  const signs = unicode
    ? { finished: "✓", running: "▸", waiting: "·", skipped: "–" }
    : { finished: "+", running: ">", waiting: ".", skipped: "-" };
  const name = truncate(stage.name, nameWidth, mark);
  const lead = `${signs[stage.status]} ${padEnd(name, nameWidth)}`;
  const room = columns - textWidth(lead) - 2;
  if (stage.status === "waiting") return [paint(`${signs.waiting} ${name}`, dim)];
  if (stage.status !== "running") {
    const seconds = stage.seconds === undefined ? "" : formatSeconds(stage.seconds);
    const words = stage.status === "skipped" ? "skipped" : outcome(stage, room - seconds.length - 2, mark);
    const space = " ".repeat(Math.max(0, room - textWidth(words) - seconds.length));
    return [
      `${paint(lead, stage.status === "finished" ? green : dim)}  ${words}${space}${paint(seconds, dim)}`.trimEnd(),
    ];
  }
  const lines = [`${paint(lead, cyan)}  ${progressText(stage, now, room, unicode, paint)}`.trimEnd()];
  const metrics = metricsText(stage, columns - 4, unicode, paint);
  if (metrics !== "") lines.push(`    ${metrics}`);
  return lines;
}

/** What a finished stage ended with: short facts of its summary, else its last headline metric. */
function outcome(stage: StageState, room: number, mark: string): string {
  const facts = Object.entries(stage.summary ?? {})
    .filter(([, value]) => typeof value === "number" || (typeof value === "string" && value.length <= 24))
    .map(
      ([name, value]) =>
        `${shortName(name)} ${typeof value === "number" ? formatNumber(value) : printable(String(value))}`,
    );
  if (facts.length === 0) {
    const name = headlineOf(stage);
    const value = name === undefined ? undefined : latest(stage, name);
    if (name !== undefined && value !== undefined) facts.push(`${shortName(name)} ${formatNumber(value)}`);
  }
  let text = "";
  for (const fact of facts) {
    const longer = text === "" ? fact : `${text}, ${fact}`;
    if (textWidth(longer) > room) break;
    text = longer;
  }
  return text === "" && facts.length > 0 ? truncate(facts[0]!, room, mark) : text;
}

/** Bar, share, done/total, rate, time left: as many of them as the room holds, the first ones first. */
function progressText(stage: StageState, now: number, room: number, unicode: boolean, paint: Paint): string {
  const { progress } = stage;
  if (progress === undefined) {
    return stage.began === undefined ? "" : paint(formatSeconds((now - stage.began) / 1000), dim);
  }
  const { done, total, unit, rate } = progress;
  const share = total > 0 ? done / total : 0;
  const left = stageLeft(stage, now)!;
  const parts = [
    `${Math.floor(100 * Math.min(1, share))}%`,
    Number.isFinite(left) && share < 1 ? `${formatSeconds(left)} left` : "",
    `${amount(done)}/${amount(total)}`,
    formatRate(rate, printable(unit)),
  ];
  const kept: string[] = [];
  const least = 4;
  for (const part of parts) {
    if (part !== "" && [...kept, part].join("  ").length + least + 2 <= room) kept.push(part);
  }
  const facts = kept.join("  ");
  const width = Math.min(24, room - (facts === "" ? 0 : facts.length + 2));
  const drawn = width >= least ? paint(bar(share, width, unicode), cyan) : "";
  return [drawn, facts].filter(Boolean).join("  ");
}

const amount = (count: number) => (Number.isInteger(count) ? String(count) : formatNumber(count));

function metricsText(stage: StageState, room: number, unicode: boolean, paint: Paint): string {
  const name = headlineOf(stage);
  if (name === undefined) return "";
  const values = series(stage, name).map(([, value]) => value);
  const last = values.at(-1)!;
  let text = `${shortName(name)} ${formatNumber(last)}`;
  const others: string[] = [];
  for (const [metric, label] of companions) {
    const value = metric === name ? undefined : latest(stage, metric);
    if (value === undefined || others.some((other) => other.startsWith(label))) continue;
    others.push(`${label} ${formatNumber(value)}`);
  }
  const space = room - text.length;
  const after = others.filter((_, i) => others.slice(0, i + 1).join("  ").length + 2 + 10 <= space).join("  ");
  const width = Math.min(40, space - 2 - (after === "" ? 0 : after.length + 2));
  if (width >= 4) text += `  ${paint(curve(values, width, unicode), Number.isFinite(last) ? yellow : red)}`;
  return after === "" ? text : `${text}  ${after}`;
}

/** One plain line about the running stage, for logs and pipes. */
export function plainLine({ state }: DisplayInput): string | undefined {
  const stage = state.stages.find(({ status }) => status === "running");
  if (stage?.progress === undefined) return undefined;
  const { done, total, unit, rate, secondsLeft } = stage.progress;
  const name = headlineOf(stage);
  const value = name === undefined ? undefined : latest(stage, name);
  return [
    `${stage.name}: ${amount(done)}/${amount(total)} ${unit}`,
    formatRate(rate, unit),
    name === undefined || value === undefined ? "" : `${shortName(name)} ${formatNumber(value)}`,
    Number.isFinite(secondsLeft) ? `${formatSeconds(secondsLeft)} left` : "",
  ]
    .filter(Boolean)
    .join(", ");
}
