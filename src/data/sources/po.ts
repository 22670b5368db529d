/** One message of a gettext catalogue and its translation. */
export interface PoEntry {
  readonly line: number;
  readonly original: string;
  readonly translation: string;
  readonly context?: string;
  /** Marked as to be looked at again: not a translation to learn from. */
  readonly fuzzy: boolean;
}

const ESCAPES: Record<string, string> = { n: "\n", t: "\t", r: "\r", '"': '"', "\\": "\\" };
const unquote = (text: string): string => text.replace(/\\(.)/g, (_, one: string) => ESCAPES[one] ?? one);

/**
 * The messages of a `.po` file (GNU gettext manual, 10): obsolete ones are left out; of plural forms the first counts.
 * @param lines of the file, with their numbers
 */
export async function* parsePo(
  lines: AsyncIterable<{ readonly number: number; readonly text: string | undefined }>,
): AsyncGenerator<PoEntry> {
  let entry: { line: number; msgid?: string; msgstr?: string; msgctxt?: string; fuzzy: boolean } | undefined;
  let field: "msgid" | "msgstr" | "msgctxt" | undefined;
  let fuzzy = false;
  const finish = (): PoEntry | undefined => {
    const done = entry;
    entry = undefined;
    field = undefined;
    if (done?.msgid === undefined || done.msgstr === undefined) return undefined;
    const { line, msgid, msgstr, msgctxt } = done;
    return {
      line,
      original: msgid,
      translation: msgstr,
      fuzzy: done.fuzzy,
      ...(msgctxt === undefined ? {} : { context: msgctxt }),
    };
  };
  for await (const { number, text } of lines) {
    if (text === undefined) continue;
    const line = text.trim();
    if (line.startsWith("#")) {
      if (entry?.msgstr !== undefined) {
        const done = finish();
        if (done !== undefined) yield done;
      }
      if (line.startsWith("#,") && /\bfuzzy\b/.test(line)) fuzzy = true;
      continue;
    }
    const [, key, rest = ""] = /^(msgid_plural|msgid|msgstr(?:\[\d+\])?|msgctxt)\s+"(.*)"$/.exec(line) ?? [];
    if (key !== undefined) {
      const starts =
        key === "msgctxt" ||
        (key === "msgid" && entry?.msgid !== undefined) ||
        (key === "msgid" && entry === undefined);
      if (starts) {
        const done = finish();
        if (done !== undefined) yield done;
        entry = { line: number, fuzzy };
        fuzzy = false;
      }
      if (entry === undefined) continue;
      field =
        key === "msgid" || key === "msgctxt" ? key : key === "msgstr" || key === "msgstr[0]" ? "msgstr" : undefined;
      if (field !== undefined) entry[field] = unquote(rest);
      continue;
    }
    const more = /^"(.*)"$/.exec(line)?.[1];
    if (more !== undefined && entry !== undefined && field !== undefined) entry[field] += unquote(more);
  }
  const done = finish();
  if (done !== undefined) yield done;
}
