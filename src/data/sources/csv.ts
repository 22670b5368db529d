import { ReadError } from "../document.ts";

/** A record of a CSV file and the line it begins at. Too long: no fields. */
export interface CsvRecord {
  readonly line: number;
  readonly fields: readonly string[] | undefined;
}

/** The sign between fields: the one of `,` `;` tab `|` that is most often in the first line outside of quotes. */
export function findDelimiter(text: string): string {
  const line = text
    .slice(0, 65_536)
    .replace(/"(?:[^"]|"")*"/g, "")
    .split(/\r?\n/, 1)[0]!;
  let best = ",";
  let most = 0;
  for (const sign of [",", "\t", ";", "|"]) {
    const count = line.split(sign).length - 1;
    if (count > most) [best, most] = [sign, count];
  }
  return best;
}

/**
 * The records of a CSV text (RFC 4180; any line end; line ends and delimiters inside of quotes), one in memory at a time.
 * @param limit UTF-16 units of a record
 * @throws ReadError `malformed` when a quote is never closed
 */
export async function* parseCsv(
  pieces: AsyncIterable<string>,
  delimiter: string,
  limit: number,
): AsyncGenerator<CsvRecord> {
  const comma = delimiter.charCodeAt(0);
  let fields: string[] = [];
  let field = "";
  let size = 0;
  let quoted = false;
  /** The last character was a quote that may be the end of the field or the first of two. */
  let pending = false;
  let started = false;
  let line = 1;
  let first = 1;
  let carriage = false;
  const add = (text: string) => {
    size += text.length;
    if (size <= limit) field += text;
  };
  const finish = (): CsvRecord => {
    fields.push(field);
    const record = { line: first, fields: size > limit ? undefined : fields };
    fields = [];
    field = "";
    size = 0;
    started = false;
    pending = false;
    first = line;
    return record;
  };
  for await (const piece of pieces) {
    let from = 0;
    for (let i = 0; i < piece.length; i++) {
      const code = piece.charCodeAt(i);
      if (quoted) {
        if (code === 10) line++;
        if (code !== 34) continue;
        add(piece.slice(from, i));
        quoted = false;
        pending = true;
        from = i + 1;
        continue;
      }
      if (pending && code === 34) {
        add('"');
        quoted = true;
        pending = false;
        from = i + 1;
        continue;
      }
      pending = false;
      if (code === 34 && !started && from === i) {
        quoted = true;
        started = true;
        from = i + 1;
        carriage = false;
      } else if (code === comma) {
        add(piece.slice(from, i));
        fields.push(field);
        field = "";
        started = false;
        from = i + 1;
        carriage = false;
      } else if (code === 10 || code === 13) {
        // CR, LF and CRLF each end one line.
        if (code === 10 && carriage) {
          carriage = false;
          from = i + 1;
          continue;
        }
        carriage = code === 13;
        line++;
        add(piece.slice(from, i));
        from = i + 1;
        const record = finish();
        if (record.fields === undefined || record.fields.length > 1 || record.fields[0] !== "") yield record;
      } else {
        started = true;
        carriage = false;
      }
    }
    if (from < piece.length) add(piece.slice(from));
  }
  if (quoted) throw new ReadError("malformed", "A quote is never closed.", { place: `:${first}` });
  if (size > 0 || fields.length > 0) yield finish();
}
