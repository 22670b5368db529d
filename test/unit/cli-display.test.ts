import { EventEmitter } from "node:events";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import {
  type DisplayInput,
  type DisplayStyle,
  headlineOf,
  plainLine,
  render,
  timeLeft,
} from "../../src/cli/display.ts";
import { announce, RunDisplay, restoreTerminal, terminalFacts } from "../../src/cli/terminal.ts";
import {
  bar,
  curve,
  formatNumber,
  formatRate,
  formatSeconds,
  printable,
  table,
  textWidth,
  truncate,
} from "../../src/cli/text.ts";
import { type Event, runStateOf } from "../../src/runs/index.ts";

const stage = (name: string, index: number, status: "started" | "finished", t: number): Event => ({
  t,
  type: "stage",
  stage: name,
  index,
  count: 4,
  status,
  ...(status === "finished" ? { seconds: 4.1, summary: { vocabulary: 1024, note: "a\u001b[31m" } } : {}),
});

/** A run in the middle of its second stage, with two still to come. */
function events(): Event[] {
  const list: Event[] = [
    { t: 0, type: "run", status: "started" },
    stage("tokenizer", 0, "started", 0),
    stage("tokenizer", 0, "finished", 4100),
    stage("pretrain", 1, "started", 4100),
  ];
  for (let step = 1; step <= 300; step++) {
    list.push({ t: 4100 + step * 100, type: "metrics", stage: "pretrain", step, values: { loss: 2 + 5 / step } });
  }
  list.push({ t: 34100, type: "metrics", stage: "pretrain", step: 300, values: { heldout_loss: 2.41 } });
  list.push({
    t: 34100,
    type: "progress",
    stage: "pretrain",
    done: 300,
    total: 1200,
    unit: "steps",
    rate: 10,
    secondsLeft: 90,
  });
  return list;
}

const input = (list: Event[] = events()): DisplayInput => {
  const state = runStateOf(list);
  for (const name of ["sft", "report"])
    state.stages.push({ ...runStateOf([stage(name, 0, "started", 0)]).stages[0]!, status: "waiting" });
  return { title: "shakespeare", state, now: 35_100, expected: new Map([["sft", 20]]) };
};
const style = (more: Partial<DisplayStyle> = {}): DisplayStyle => ({
  columns: 80,
  unicode: true,
  colour: false,
  ...more,
});

describe("the display", () => {
  test("at 80 columns shows stages, bar, counts, rate, loss, its curve and the time left", () => {
    const lines = render(input(), style());
    expect(lines).toHaveLength(6);
    expect(lines[0]).toMatch(/^shakespeare +35 s, more than 1 min 49 s left$/);
    expect(lines[1]).toMatch(/^✓ tokenizer {2}vocabulary 1024, note a +4\.1 s$|^✓ tokenizer {2}vocabulary 1024/);
    expect(lines[2]).toMatch(/^▸ pretrain {3}█+[▏▎▍▌▋▊▉]?░+ {2}25% {2}1 min 29 s left {2}300\/1200 {2}10\.0 steps\/s$/);
    expect(lines[3]).toMatch(/^ {4}loss 2\.0\d+ {2}█[▁-█]+ {2}held out 2\.41$/);
    expect(lines.slice(4)).toEqual(["· sft", "· report"]);
  });

  test("no line is wider than the terminal, from 10 to 200 columns, with and without colours", () => {
    for (let columns = 10; columns <= 200; columns++) {
      for (const colour of [false, true]) {
        for (const unicode of [false, true]) {
          for (const line of render(input(), style({ columns, colour, unicode }))) {
            expect(textWidth(line), `${columns}: ${line}`).toBeLessThanOrEqual(columns);
          }
        }
      }
    }
  });

  test("at 40 columns keeps the bar, the share and the time left", () => {
    const lines = render(input(), style({ columns: 40 }));
    expect(lines[2]).toMatch(/^▸ pretrain {3}█.*░ {2}25% {2}1 min 29 s left$/);
    expect(lines[3]).toMatch(/loss 2\.0\d+ {2}[▁-█]+ {2}held out 2\.41$/);
  });

  test("without UTF-8 is plain ASCII", () => {
    const text = render(input(), style({ unicode: false })).join("\n");
    expect(text).toMatch(/^[\x20-\x7e\n]*$/);
    expect(text).toContain("> pretrain   #");
  });

  test("colours change nothing but colours", () => {
    // biome-ignore lint/suspicious/noControlCharactersInRegex: colours are escape sequences
    const plain = render(input(), style({ colour: true })).map((line) => line.replace(/\u001b\[\d+m/g, ""));
    expect(plain).toEqual(render(input(), style()));
  });

  test("on a low terminal keeps the running stage", () => {
    for (let rows = 3; rows < 8; rows++) {
      const lines = render(input(), style({ rows }));
      expect(lines.length).toBeLessThanOrEqual(rows);
      expect(lines.some((line) => line.startsWith("▸ pretrain"))).toBe(true);
    }
  });

  test("shows a diverged loss as it is", () => {
    const list = [
      ...events(),
      { t: 34200, type: "metrics", stage: "pretrain", step: 301, values: { loss: Number.NaN } } as Event,
    ];
    expect(render(input(list), style())[3]).toMatch(/^ {4}loss NaN {2}[▁-█]+! /);
  });

  test("the time left is a lower bound while a stage's time is unknown", () => {
    expect(timeLeft(input())).toEqual({ seconds: 109, partial: true });
    expect(
      timeLeft({
        ...input(),
        expected: new Map([
          ["sft", 20],
          ["report", 5],
        ]),
      }),
    ).toEqual({ seconds: 114, partial: false });
  });

  test("a text of a summary cannot reach the terminal raw", () => {
    expect(render(input(), style()).join("")).not.toContain("\u001b");
  });

  test("PPO's curve is its score, by TRL's name", () => {
    const values = { "objective/kl": 3, "objective/scores": 0.5 };
    const state = runStateOf([stage("ppo", 0, "started", 0), { t: 1, type: "metrics", stage: "ppo", step: 1, values }]);
    expect(headlineOf(state.stages[0]!)).toBe("objective/scores");
    const lines = render({ ...input(), state }, style());
    expect(lines[2]).toBe("    scores 0.5  ▁  KL 3");
  });

  test("the plain line says the same in words", () => {
    expect(plainLine(input())).toBe("pretrain: 300/1200 steps, 10.0 steps/s, loss 2.017, 1 min 30 s left");
  });
});

describe("pieces of text", () => {
  test("seconds, numbers and rates are short and exact", () => {
    expect([0.04, 4.12, 59.6, 185, 7800, 3e5, Number.NaN].map(formatSeconds)).toEqual([
      "0.0 s",
      "4.1 s",
      "1 min 00 s",
      "3 min 05 s",
      "2 h 10 min",
      "3 d 11 h",
      "?",
    ]);
    expect([0, 2.31449, 0.01234, 1234.5, 1.2e-7, -0.5, 3e9, Number.NaN].map(formatNumber)).toEqual([
      "0",
      "2.314",
      "0.01234",
      "1235",
      "1.2e-7",
      "-0.5",
      "3.0e+9",
      "NaN",
    ]);
    expect([formatRate(8.44, "steps"), formatRate(0.5, "steps"), formatRate(0, "steps")]).toEqual([
      "8.4 steps/s",
      "2.0 s/step",
      "",
    ]);
  });

  test("a bar is as wide as asked for at every share", () => {
    for (let i = -1; i <= 101; i++) {
      for (const unicode of [true, false]) expect(textWidth(bar(i / 100, 13, unicode))).toBe(13);
    }
    expect(bar(Number.NaN, 4, false)).toBe("----");
    expect(bar(1, 4, false)).toBe("####");
  });

  test("a curve keeps ends and order, and is never longer than its values", () => {
    expect(curve([1, 2, 4, 8, 16, 32, 64, 128], 8, true)).toBe("▁▂▃▄▅▆▇█");
    expect(curve([3, 3, 3], 8, true)).toBe("▁▁▁");
    expect(curve([-1, 1], 8, false)).toBe("_#");
    expect(curve([], 8, true)).toBe("");
    expect(curve([Number.NaN, Number.POSITIVE_INFINITY], 8, true)).toBe("!!");
    expect(
      curve(
        Array.from({ length: 1000 }, (_, i) => 1000 - i),
        10,
        true,
      ),
    ).toMatch(/^█.{8}▁$/);
  });

  test("wide characters take two columns, combining ones none, colours none", () => {
    expect([
      textWidth("莎士比亚"),
      textWidth("é"),
      textWidth("e\u0301"),
      textWidth("😀"),
      textWidth("\u001b[31mab\u001b[0m"),
    ]).toEqual([8, 1, 1, 2, 2]);
    expect(truncate("莎士比亚", 5)).toBe("莎士…");
    expect(truncate("abc", 3)).toBe("abc");
    expect(truncate("abc", 0)).toBe("");
    expect(printable("a\u001b[2J\nb\u009b")).toBe("a [2J b ");
    expect(
      table([
        ["a", 10],
        ["莎士", 5],
      ]),
    ).toEqual(["a     10", "莎士   5"]);
  });
});

describe("what a terminal can", () => {
  const tty = { isTTY: true };
  const utf8 = { LANG: "en_US.UTF-8", TERM: "xterm" };
  test("is read off the environment", () => {
    expect(terminalFacts(tty, utf8, "linux")).toEqual({ live: true, unicode: true, colour: true });
    expect(terminalFacts(tty, { ...utf8, NO_COLOR: "1" }, "linux").colour).toBe(false);
    expect(terminalFacts(tty, { ...utf8, LC_ALL: "C" }, "linux").unicode).toBe(false);
    expect(terminalFacts(tty, { ...utf8, TERM: "dumb" }, "linux").live).toBe(false);
    expect(terminalFacts(tty, { ...utf8, TERM: "linux" }, "linux").unicode).toBe(false);
    expect(terminalFacts({}, utf8, "linux")).toMatchObject({ live: false, colour: false });
    expect(terminalFacts(tty, {}, "win32").unicode).toBe(false);
    expect(terminalFacts(tty, { WT_SESSION: "x" }, "win32").unicode).toBe(true);
  });
});

/** A terminal that understands what the display sends: cursor up, erase, private modes. */
class Screen extends EventEmitter {
  readonly isTTY = true;
  columns = 80;
  rows = 24;
  cursorShown = true;
  frames = 0;
  readonly lines: string[] = [""];
  #row = 0;
  #column = 0;

  /** A terminal made narrower wraps the lines that are there. */
  resize(columns: number): void {
    const wrapped = this.lines.flatMap((line) => line.match(new RegExp(`.{1,${columns}}`, "g")) ?? [""]);
    this.lines.splice(0, this.lines.length, ...wrapped);
    this.#row = this.lines.length - 1;
    this.columns = columns;
    this.emit("resize");
  }

  write(text: string): boolean {
    // biome-ignore lint/suspicious/noControlCharactersInRegex: that is what a terminal reads
    for (const [part] of text.matchAll(/\u001b\[[?0-9;]*[a-zA-Z]|\r|\n|[^\u001b\r\n]+/g)) {
      if (part === "\r") this.#column = 0;
      else if (part === "\n") {
        this.#row++;
        this.#column = 0;
        this.lines[this.#row] ??= "";
      } else if (part === "\u001b[?25l") this.cursorShown = false;
      else if (part === "\u001b[?25h") this.cursorShown = true;
      else if (part === "\u001b[?2026h") this.frames++;
      else if (part === "\u001b[K") this.lines[this.#row] = this.lines[this.#row]!.slice(0, this.#column);
      else if (part === "\u001b[J") {
        this.lines[this.#row] = this.lines[this.#row]!.slice(0, this.#column);
        this.lines.length = this.#row + 1;
      } else if (part.startsWith("\u001b[") && part.endsWith("A")) this.#row -= Number(part.slice(2, -1));
      else if (!part.startsWith("\u001b")) {
        const line = this.lines[this.#row]!;
        this.lines[this.#row] =
          line.slice(0, this.#column).padEnd(this.#column) + part + line.slice(this.#column + part.length);
        this.#column += part.length;
      }
    }
    return true;
  }
}

describe("drawing a run", () => {
  beforeEach(() => void vi.useFakeTimers({ now: 34_100 }));
  afterEach(() => void vi.useRealTimers());

  const start = (screen: { write(text: string): boolean }, environment: NodeJS.ProcessEnv) =>
    new RunDisplay({
      title: "shakespeare",
      stages: ["tokenizer", "pretrain", "sft", "report"],
      stream: screen as unknown as NodeJS.WriteStream,
      environment,
    });

  test("redraws in place, keeps lines that were said above, and leaves the terminal as it was", () => {
    const screen = new Screen();
    const display = start(screen, { LANG: "C.UTF-8", TERM: "xterm", NO_COLOR: "1" });
    expect(screen.cursorShown).toBe(false);
    for (const event of events()) {
      display.sink(event);
      vi.advanceTimersByTime(1);
    }
    announce("Stopping cleanly");
    vi.advanceTimersByTime(5000);
    display.stop();
    display.stop();
    announce("");
    expect(screen.cursorShown).toBe(true);
    expect(screen.lines[0]).toBe("Stopping cleanly");
    expect(screen.lines.filter((line) => line.startsWith("▸ pretrain"))).toHaveLength(1);
    expect(screen.lines.slice(1, 7).map((line) => line.trim().slice(0, 6))).toEqual([
      "shakes",
      "✓ toke",
      "▸ pret",
      "loss 2",
      "· sft",
      "· repo",
    ]);
    expect(screen.lines.slice(7)).toEqual([""]);
  });

  test("draws at most ten times a second however many events come", () => {
    const screen = new Screen();
    const display = start(screen, { LANG: "C.UTF-8", TERM: "xterm" });
    for (let i = 0; i < 2000; i++) {
      display.sink({ t: i, type: "metrics", stage: "pretrain", step: i, values: { loss: 1 } });
      vi.advanceTimersByTime(1);
    }
    expect(screen.frames).toBeGreaterThan(15);
    expect(screen.frames).toBeLessThanOrEqual(20);
    display.stop();
  });

  test("a crash shows the cursor again", () => {
    const screen = new Screen();
    const display = start(screen, { LANG: "C.UTF-8", TERM: "xterm" });
    restoreTerminal();
    expect(screen.cursorShown).toBe(true);
    display.stop();
  });

  test("a narrower window is redrawn at its width", () => {
    const screen = new Screen();
    const display = start(screen, { LANG: "C.UTF-8", TERM: "xterm", NO_COLOR: "1" });
    for (const event of events()) display.sink(event);
    vi.advanceTimersByTime(200);
    screen.resize(41);
    display.stop();
    for (const line of screen.lines) expect(textWidth(line)).toBeLessThanOrEqual(40);
    expect(screen.lines.filter((line) => line.startsWith("▸ pretrain"))).toHaveLength(1);
    expect(screen.lines[0]).toMatch(/^shakespeare/);
  });

  test("elsewhere writes lines, a few seconds apart, without escape codes", () => {
    let text = "";
    const write = (part: string) => {
      text += part;
      return true;
    };
    const display = start({ write }, { TERM: "xterm" });
    for (const event of events()) display.sink(event);
    for (let i = 1; i <= 30; i++) {
      display.sink({
        t: 34_100 + i * 1000,
        type: "progress",
        stage: "pretrain",
        done: 300 + i,
        total: 1200,
        unit: "steps",
        rate: 10,
        secondsLeft: 90,
      });
    }
    display.sink({ t: 70_000, type: "log", level: "warn", message: "a\u001b[31mb" });
    display.stop();
    expect(text).not.toContain("\u001b");
    const lines = text.trimEnd().split("\n");
    expect(lines.slice(0, 3)).toEqual([
      "tokenizer: started (stage 1 of 4)",
      "tokenizer: finished after 4.1 s (stage 1 of 4)",
      "pretrain: started (stage 2 of 4)",
    ]);
    expect(lines.filter((line) => line.startsWith("pretrain: 3"))).toHaveLength(7);
    expect(lines.at(-1)).toBe("warn: a [31mb");
  });
});
