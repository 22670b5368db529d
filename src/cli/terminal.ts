import type { Event, EventSink } from "../runs/events.ts";
import { applyEvent, newRunState, type RunState } from "../runs/state.ts";
import { type DisplayInput, type DisplayStyle, plainLine, render } from "./display.ts";
import { formatSeconds, printable, textWidth } from "./text.ts";

const hideCursor = "\u001b[?25l";
const showCursor = "\u001b[?25h";
/** Synchronized output: a terminal that knows it shows the frame all at once; others ignore it. */
const beginFrame = "\u001b[?2026h";
const endFrame = "\u001b[?2026l";
const clearToEnd = "\u001b[J";
const clearLine = "\u001b[K";

/** Streams whose cursor is hidden now. */
const hidden = new Set<NodeJS.WriteStream>();

/** Shows the cursor again, at the end of a command, a crash included. */
export function restoreTerminal(): void {
  for (const stream of hidden) stream.write(`${endFrame}${showCursor}`);
  hidden.clear();
}

/** The display that owns the terminal now, if one does. */
let foreground: RunDisplay | undefined;

/** Says something to the person on standard error, above a display that is being redrawn. */
export function announce(text: string): void {
  if (foreground === undefined) process.stderr.write(`${text}\n`);
  else foreground.line(text);
}

export interface TerminalFacts {
  /** Whether to redraw in place; otherwise plain lines. */
  readonly live: boolean;
  readonly unicode: boolean;
  readonly colour: boolean;
}

/** What the terminal behind a stream can show, as its environment says. */
export function terminalFacts(
  stream: { readonly isTTY?: boolean | undefined },
  environment: NodeJS.ProcessEnv,
  platform: NodeJS.Platform = process.platform,
): TerminalFacts {
  const terminal = environment.TERM ?? "";
  const live = stream.isTTY === true && terminal !== "dumb" && environment.CI === undefined;
  const locale = environment.LC_ALL || environment.LC_CTYPE || environment.LANG || "";
  const unicode =
    platform === "win32"
      ? environment.WT_SESSION !== undefined || environment.TERM_PROGRAM !== undefined
      : // The Linux console's font has few of the block characters.
        /utf-?8/i.test(locale) && terminal !== "linux";
  // https://no-color.org: any value but an empty one.
  const colour = live && (environment.NO_COLOR ?? "") === "";
  return { live, unicode, colour };
}

export interface RunDisplayOptions {
  readonly title: string;
  /** Names of all stages, in order, so that those to come are shown. */
  readonly stages: readonly string[];
  readonly expected?: ReadonlyMap<string, number>;
  readonly stream: NodeJS.WriteStream;
  readonly environment: NodeJS.ProcessEnv;
  /** What earlier sittings reported, so that curves go on. */
  readonly past?: RunState;
  /** Seconds between two plain lines. */
  readonly plainEvery?: number;
}

/**
 * Shows a run while it goes: feed `sink` the run's events. On a terminal it redraws in place, at most ten times a second;
 * elsewhere it writes a line now and then.
 */
export class RunDisplay {
  readonly #stream: NodeJS.WriteStream;
  readonly #facts: TerminalFacts;
  readonly #input: { title: string; state: RunState; expected: ReadonlyMap<string, number> };
  readonly #plainEvery: number;
  #timer: NodeJS.Timeout | undefined;
  #drawn: string[] = [];
  #dirty = false;
  #lastPlain = 0;
  #lastSecond = 0;

  constructor({ title, stages, expected, stream, environment, past, plainEvery = 5 }: RunDisplayOptions) {
    this.#stream = stream;
    this.#facts = terminalFacts(stream, environment);
    const state = past ?? newRunState(stages);
    for (const [index, name] of stages.entries()) {
      if (!state.stages.some((stage) => stage.name === name))
        state.stages.splice(index, 0, newRunState([name]).stages[0]!);
    }
    state.count = Math.max(state.count, stages.length);
    // The clock on the display is this sitting's.
    state.began = undefined;
    this.#input = { title, state, expected: expected ?? new Map() };
    this.#plainEvery = plainEvery * 1000;
    if (this.#facts.live) {
      foreground = this;
      hidden.add(stream);
      stream.write(hideCursor);
      process.once("exit", restoreTerminal);
      stream.on("resize", this.#onResize);
      this.#timer = setInterval(() => this.#tick(), 100);
      this.#timer.unref();
    }
  }

  /** Takes an event of the run. Cheap: drawing happens on a timer. */
  readonly sink: EventSink = (event) => {
    applyEvent(this.#input.state, event);
    if (this.#facts.live) {
      if (event.type === "log" && event.level !== "info") this.line(`${event.level}: ${event.message}`);
      this.#dirty = true;
    } else this.#plain(event);
  };

  /** Prints a line that stays, above what is redrawn. */
  line(text: string): void {
    if (!this.#facts.live) {
      this.#stream.write(`${text}\n`);
      return;
    }
    this.#stream.write(`${beginFrame}${this.#erase()}${printable(text)}\n${endFrame}`);
    this.#draw();
  }

  /** Draws the last state and leaves it standing; the terminal is as it was. */
  stop(): void {
    if (!this.#facts.live || this.#timer === undefined) return;
    if (foreground === this) foreground = undefined;
    clearInterval(this.#timer);
    this.#timer = undefined;
    this.#stream.removeListener("resize", this.#onResize);
    this.#draw();
    this.#drawn = [];
    restoreTerminal();
    process.removeListener("exit", restoreTerminal);
  }

  get #style(): DisplayStyle {
    const { unicode, colour } = this.#facts;
    // The last column stays free: some terminals wrap when it is written.
    return {
      columns: Math.max(10, (this.#stream.columns ?? 80) - 1),
      rows: Math.max(1, (this.#stream.rows ?? 24) - 1),
      unicode,
      colour,
    };
  }

  get #current(): DisplayInput {
    return { ...this.#input, now: Date.now() };
  }

  #tick(): void {
    // Without news the clocks still go on, once a second.
    const second = Math.floor(Date.now() / 1000);
    if (!this.#dirty && second === this.#lastSecond) return;
    this.#lastSecond = second;
    this.#dirty = false;
    this.#draw();
  }

  #draw(): void {
    const lines = render(this.#current, this.#style);
    const up = this.#drawn.length > 0 ? `\r\u001b[${this.#drawn.length}A` : "";
    const body = lines.map((line) => `${line}${clearLine}\n`).join("");
    this.#stream.write(`${beginFrame}${up}${body}${clearToEnd}${endFrame}`);
    this.#drawn = lines;
  }

  /** Escape codes that remove what was drawn; the cursor is then where the first line was. */
  #erase(): string {
    if (this.#drawn.length === 0) return "";
    const columns = Math.max(1, this.#stream.columns ?? 80);
    // A terminal made narrower has wrapped the old lines.
    const height = this.#drawn.reduce((sum, line) => sum + Math.max(1, Math.ceil(textWidth(line) / columns)), 0);
    this.#drawn = [];
    return `\r\u001b[${height}A${clearToEnd}`;
  }

  readonly #onResize = (): void => {
    this.#stream.write(this.#erase());
    this.#draw();
  };

  #plain(event: Event): void {
    const write = (text: string) => void this.#stream.write(`${text}\n`);
    switch (event.type) {
      case "run":
        if (event.message !== undefined) write(printable(event.message));
        break;
      case "stage": {
        const took = event.seconds === undefined ? "" : ` after ${formatSeconds(event.seconds)}`;
        write(`${event.stage}: ${event.status}${took} (stage ${event.index + 1} of ${event.count})`);
        this.#lastPlain = event.t;
        break;
      }
      case "log":
        write(`${event.level === "info" ? "" : `${event.level}: `}${printable(event.message)}`);
        break;
      case "progress": {
        const line = plainLine(this.#current);
        if (event.t - this.#lastPlain < this.#plainEvery || line === undefined) break;
        this.#lastPlain = event.t;
        write(line);
        break;
      }
      case "metrics":
      case "sample":
        break;
    }
  }
}
