// What set-up says: one line per step, with how long it took. No dependencies: this runs before `npm ci`.
import { performance } from "node:perf_hooks";

const live = process.stdout.isTTY === true && process.env.CI === undefined;
const colour = live && process.env.NO_COLOR === undefined;
const dim = (text) => (colour ? `\u001b[2m${text}\u001b[0m` : text);

/** 0.04 s, 12.3 s, 2 min 05 s. */
export function duration(milliseconds) {
  const seconds = milliseconds / 1000;
  if (seconds < 1) return `${seconds.toFixed(2)} s`;
  if (seconds < 100) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  return `${Math.floor(whole / 60)} min ${String(whole % 60).padStart(2, "0")} s`;
}

export function say(text) {
  process.stdout.write(`${text}\n`);
}

/**
 * Announces a step, runs it, and says how long it took. On a terminal the line is alive while the step runs;
 * elsewhere there is one line at the start (so that a log shows what is being waited for) and one at the end.
 * `work` gets `note(text)`, which shows what is going on now.
 */
export async function step(title, work) {
  const start = performance.now();
  let now = "";
  const elapsed = () => duration(performance.now() - start);
  const draw = () => {
    const width = process.stdout.columns ?? 80;
    const line = `${title} ... ${elapsed()}${now === "" ? "" : `  ${now}`}`;
    process.stdout.write(`\r\u001b[K${line.slice(0, width - 1)}`);
  };
  if (live) draw();
  else say(`${title} ...`);
  const timer = live ? setInterval(draw, 200) : undefined;
  const clear = () => {
    clearInterval(timer);
    if (live) process.stdout.write("\r\u001b[K");
  };
  try {
    const result = await work((text) => {
      now = text;
    });
    clear();
    say(`${title}: ${elapsed()}`);
    return result;
  } catch (error) {
    clear();
    say(`${title}: failed after ${elapsed()}`);
    throw error;
  }
}

export { dim };
