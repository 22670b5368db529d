import type { ComponentChildren, JSX } from "preact";

/**
 * Markdown as reports use it: headings, paragraphs, nested lists, tables, quotes, code, rules, emphasis, links. It makes
 * elements and never HTML text, so nothing in a report can run; a link must be http, https or within the page.
 */
export function Markdown({ text }: { text: string }): JSX.Element {
  return <div class="markdown">{blocks(text.replace(/\r\n?/g, "\n").split("\n"))}</div>;
}

const fence = /^ {0,3}(`{3,}|~{3,})\s*(\S*)/;
const heading = /^ {0,3}(#{1,6})\s+(.*?)\s*#*$/;
const rule = /^ {0,3}([-*_])(\s*\1){2,}\s*$/;
const item = /^( *)([-*+]|\d{1,9}[.)])(\s+)(.*)$/;
const tableRule = /^\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$/;

function blocks(lines: readonly string[]): ComponentChildren[] {
  const out: ComponentChildren[] = [];
  let i = 0;
  while (i < lines.length) {
    const line = lines[i] ?? "";
    const start = i;
    const fenced = fence.exec(line);
    if (line.trim() === "") {
      i++;
    } else if (fenced) {
      const end = lines.findIndex((l, j) => j > i && l.trim().startsWith(fenced[1] ?? "") && /^[`~\s]+$/.test(l));
      const stop = end < 0 ? lines.length : end;
      out.push(
        <pre key={start}>
          <code>{lines.slice(i + 1, stop).join("\n")}</code>
        </pre>,
      );
      i = stop + 1;
    } else if (heading.test(line)) {
      const [, marks = "#", words = ""] = heading.exec(line) ?? [];
      out.push(headingOf(marks.length, words, start));
      i++;
    } else if (rule.test(line)) {
      out.push(<hr key={start} />);
      i++;
    } else if (/^ {0,3}>/.test(line)) {
      while (i < lines.length && /^ {0,3}>/.test(lines[i] ?? "")) i++;
      out.push(
        <blockquote key={start}>{blocks(lines.slice(start, i).map((l) => l.replace(/^ {0,3}> ?/, "")))}</blockquote>,
      );
    } else if (line.includes("|") && tableRule.test(lines[i + 1] ?? "")) {
      i += 2;
      while (i < lines.length && (lines[i] ?? "").includes("|")) i++;
      out.push(table(lines.slice(start, i), start));
    } else if (item.test(line)) {
      const indent = item.exec(line)?.[1]?.length ?? 0;
      // An item's own lines are those indented deeper than its marker, and blank ones between them.
      while (i < lines.length) {
        const next = lines[i] ?? "";
        const deeper = next.trim() !== "" && next.search(/\S/) > indent;
        const sibling = (item.exec(next)?.[1]?.length ?? -1) === indent;
        const blankInside = next.trim() === "" && (lines[i + 1] ?? "").search(/\S/) > indent;
        if (i > start && !deeper && !sibling && !blankInside) break;
        i++;
      }
      out.push(list(lines.slice(start, i), indent, start));
    } else {
      const ends = (l: string) =>
        l.trim() === "" || heading.test(l) || fence.test(l) || rule.test(l) || item.test(l) || /^ {0,3}>/.test(l);
      i++;
      while (i < lines.length && !ends(lines[i] ?? "")) i++;
      out.push(<p key={start}>{inline(lines.slice(start, i).join("\n"))}</p>);
    }
  }
  return out;
}

function headingOf(level: number, words: string, key: number): JSX.Element {
  const Tag = `h${level}` as "h1";
  return <Tag key={key}>{inline(words)}</Tag>;
}

function list(lines: readonly string[], indent: number, key: number): JSX.Element {
  const items: string[][] = [];
  for (const line of lines) {
    const found = item.exec(line);
    if (found && found[1]?.length === indent) items.push([found[4] ?? ""]);
    else items.at(-1)?.push(line.slice(Math.min(line.search(/\S|$/), indent + 2)));
  }
  const marker = item.exec(lines[0] ?? "")?.[2] ?? "-";
  const children = items.map((body, i) => {
    const [first = "", ...rest] = body;
    return (
      <li key={i}>
        {inline(first)}
        {blocks(rest)}
      </li>
    );
  });
  return /\d/.test(marker) ? (
    <ol key={key} start={Number.parseInt(marker, 10)}>
      {children}
    </ol>
  ) : (
    <ul key={key}>{children}</ul>
  );
}

function table(lines: readonly string[], key: number): JSX.Element {
  const rows = lines.map(cells);
  const align = (rows[1] ?? []).map((cell) => (/^:-+:$/.test(cell) ? "center" : /-:$/.test(cell) ? "right" : "left"));
  const [head = [], , ...body] = rows;
  return (
    <div class="table" key={key}>
      <table>
        <thead>
          <tr>
            {head.map((cell, c) => (
              <th key={c} scope="col" class={align[c]}>
                {inline(cell)}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {body.map((row, r) => (
            <tr key={r}>
              {head.map((_, c) => (
                <td key={c} class={align[c]}>
                  {inline(row[c] ?? "")}
                </td>
              ))}
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

/** The cells of a row; `\|` is a bar within a cell. */
function cells(line: string): string[] {
  return line
    .trim()
    .replace(/^\||(?<!\\)\|$/g, "")
    .split(/(?<!\\)\|/)
    .map((cell) => cell.trim().replaceAll("\\|", "|"));
}

/** In order of precedence: code, image, link, bare address, strong, emphasis, escape, line break. */
const span =
  /(`+)(.+?)\1(?!`)|!\[([^\]]*)\]\([^)\s]*\)|\[([^\]]+)\]\(([^)\s]+)\)|(https?:\/\/[^\s<>)]+)|\*\*(.+?)\*\*|__(.+?)__|\*([^*\s](?:.*?[^*\s])?)\*|(?<!\w)_([^_\s](?:.*?[^_\s])?)_(?!\w)|\\([\\`*_{}[\]()#+\-.!|<>~])| {2,}\n/gs;

function inline(text: string): ComponentChildren[] {
  const out: ComponentChildren[] = [];
  let at = 0;
  for (const match of text.matchAll(span)) {
    if (match.index > at) out.push(text.slice(at, match.index));
    at = match.index + match[0].length;
    const [, , code, alt, label, target, address, strong, strong2, emphasis, emphasis2, escaped] = match;
    const key = match.index;
    if (code !== undefined) out.push(<code key={key}>{code.trim() || code}</code>);
    else if (alt !== undefined) out.push(alt);
    else if (label !== undefined && target !== undefined) out.push(link(target, inline(label), key));
    else if (address !== undefined) out.push(link(address, [address], key));
    else if (strong !== undefined || strong2 !== undefined)
      out.push(<strong key={key}>{inline(strong ?? strong2 ?? "")}</strong>);
    else if (emphasis !== undefined || emphasis2 !== undefined)
      out.push(<em key={key}>{inline(emphasis ?? emphasis2 ?? "")}</em>);
    else if (escaped !== undefined) out.push(escaped);
    else out.push(<br key={key} />);
  }
  if (at < text.length) out.push(text.slice(at));
  return out;
}

function link(target: string, children: ComponentChildren, key: number): ComponentChildren {
  if (!/^https?:\/\//i.test(target)) return children;
  return (
    <a key={key} href={target} rel="noreferrer noopener" target="_blank">
      {children}
    </a>
  );
}
