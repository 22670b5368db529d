/** Pieces of text for a terminal: widths, bars, curves, amounts. All pure. */

/** Columns a character takes: 2 for East Asian wide ones and emoji, 0 for combining marks. */
function characterWidth(character: string): number {
  if (/^[\p{Mn}\p{Me}\p{Cf}]$/u.test(character)) return 0;
  const code = character.codePointAt(0)!;
  if (code < 0x1100) return 1;
  const wide =
    code <= 0x115f ||
    (code >= 0x2e80 && code <= 0x303e) ||
    (code >= 0x3041 && code <= 0xa4cf) ||
    (code >= 0xac00 && code <= 0xd7a3) ||
    (code >= 0xf900 && code <= 0xfaff) ||
    (code >= 0xfe30 && code <= 0xfe6f) ||
    (code >= 0xff00 && code <= 0xff60) ||
    (code >= 0xffe0 && code <= 0xffe6) ||
    (code >= 0x1f300 && code <= 0x1faff) ||
    (code >= 0x20000 && code <= 0x3fffd);
  return wide ? 2 : 1;
}

// biome-ignore lint/suspicious/noControlCharactersInRegex: colours are escape sequences
const escapes = /\u001b\[[0-9;]*m/g;

// biome-ignore lint/suspicious/noControlCharactersInRegex: the same, or else one character
const pieces = /\u001b\[[0-9;]*m|[\s\S]/gu;

/** Columns of a text on a terminal; colours take none. */
export function textWidth(text: string): number {
  let width = 0;
  for (const character of text.replace(escapes, "")) width += characterWidth(character);
  return width;
}

/** The text cut to `columns`, with an ellipsis if something was cut. Colours are kept, and end with the text. */
export function truncate(text: string, columns: number, ellipsis = "…"): string {
  if (textWidth(text) <= columns) return text;
  if (columns <= 0) return "";
  let kept = "";
  let width = textWidth(ellipsis);
  let coloured = false;
  for (const [part] of text.matchAll(pieces)) {
    if (part.length > 1 && part.startsWith("\u001b")) {
      coloured = true;
    } else {
      width += characterWidth(part);
      if (width > columns) break;
    }
    kept += part;
  }
  return `${kept}${coloured ? "\u001b[0m" : ""}${ellipsis}`;
}

/** What a terminal must not be given raw: control characters, which could move the cursor or change colours. */
export function printable(text: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: that is what is looked for
  return text.replace(/[\u0000-\u001f\u007f-\u009f]/g, " ");
}

export const padEnd = (text: string, columns: number) => text + " ".repeat(Math.max(0, columns - textWidth(text)));
export const padStart = (text: string, columns: number) => " ".repeat(Math.max(0, columns - textWidth(text))) + text;

/** 0.4 s, 12 s, 3 min 05 s, 2 h 10 min, 3 d 4 h. */
export function formatSeconds(seconds: number): string {
  if (!Number.isFinite(seconds)) return "?";
  if (seconds < 9.95) return `${Math.max(0, seconds).toFixed(1)} s`;
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  const two = (n: number) => String(n).padStart(2, "0");
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${two(whole % 60)} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 48 * 60) return `${Math.floor(minutes / 60)} h ${two(minutes % 60)} min`;
  return `${Math.floor(minutes / 1440)} d ${Math.round((minutes % 1440) / 60)} h`;
}

/** A loss or a rate in four digits: 2.314, 0.0123, 1234, 1.2e-7. */
export function formatNumber(value: number): string {
  if (!Number.isFinite(value)) return String(value);
  const size = Math.abs(value);
  if (size === 0) return "0";
  if (size < 1e-3 || size >= 1e6) return value.toExponential(1);
  if (size >= 1000) return value.toFixed(0);
  return String(Number(value.toPrecision(4)));
}

/** 8.4 steps/s, or 1.9 s/step where steps are slow. */
export function formatRate(rate: number, unit: string): string {
  if (!Number.isFinite(rate) || rate <= 0) return "";
  if (rate >= 0.95) return `${rate >= 100 ? Math.round(rate) : rate.toFixed(1)} ${unit}/s`;
  return `${(1 / rate).toFixed(1)} s/${unit.replace(/s$/, "")}`;
}

const eighths = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];

/** A bar of `columns` that is `done` (0 to 1) full, to an eighth of a column. */
export function bar(done: number, columns: number, unicode: boolean): string {
  const share = Number.isFinite(done) ? Math.min(1, Math.max(0, done)) : 0;
  if (!unicode) {
    const full = Math.round(share * columns);
    return "#".repeat(full) + "-".repeat(columns - full);
  }
  const parts = Math.round(share * columns * 8);
  const head = "█".repeat(Math.floor(parts / 8)) + eighths[parts % 8]!;
  return head + "░".repeat(columns - Math.ceil(parts / 8));
}

const blocks = [..."▁▂▃▄▅▆▇█"];
const plainBlocks = [..."_.-=+*%#"];

/**
 * A curve of at most `columns` characters, oldest left: means over equal stretches, in eight heights. Positive values
 * are drawn by their logarithm, since a loss falls fast and then slowly. Values that are not finite show as "!".
 */
export function curve(values: readonly number[], columns: number, unicode: boolean): string {
  if (values.length === 0 || columns <= 0) return "";
  const heights = unicode ? blocks : plainBlocks;
  const count = Math.min(columns, values.length);
  const means: number[] = [];
  for (let i = 0; i < count; i++) {
    const stretch = values.slice(
      Math.floor((i * values.length) / count),
      Math.floor(((i + 1) * values.length) / count),
    );
    means.push(stretch.reduce((sum, value) => sum + value, 0) / stretch.length);
  }
  const finite = means.filter(Number.isFinite);
  const scale = finite.every((value) => value > 0) ? Math.log : (value: number) => value;
  const low = Math.min(...finite.map(scale));
  const high = Math.max(...finite.map(scale));
  return means
    .map((mean) => {
      if (!Number.isFinite(mean)) return "!";
      const height = high > low ? (scale(mean) - low) / (high - low) : 0;
      return heights[Math.min(heights.length - 1, Math.floor(height * heights.length))]!;
    })
    .join("");
}

/** Lines of columns, each as wide as its widest cell; numbers to the right. */
export function table(rows: readonly (readonly (string | number)[])[], gap = "  "): string[] {
  const columns = Math.max(0, ...rows.map((row) => row.length));
  const widths = Array.from({ length: columns }, (_, i) =>
    Math.max(...rows.map((row) => textWidth(String(row[i] ?? "")))),
  );
  return rows.map((row) =>
    row
      .map((cell, i) => (typeof cell === "number" ? padStart(String(cell), widths[i]!) : padEnd(cell, widths[i]!)))
      .join(gap)
      .trimEnd(),
  );
}
