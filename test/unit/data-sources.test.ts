import { once } from "node:events";
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, truncateSync, writeFileSync } from "node:fs";
import { chmod, readFile } from "node:fs/promises";
import { createServer, type RequestListener } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { brotliCompressSync, deflateSync, gzipSync } from "node:zlib";
import { afterAll, afterEach, describe, expect, test, vi } from "vitest";
import {
  type Document,
  extractRaw,
  globPattern,
  isProblem,
  isRaw,
  listInputs,
  type Problem,
  readDocuments,
  readInput,
  type SourceOptions,
  sourceOf,
} from "../../src/data/index.ts";
import { makePdf, makeZip } from "../support/archives.ts";

const root = mkdtempSync(join(tmpdir(), "howdah-sources-"));
afterAll(() => rmSync(root, { recursive: true, force: true }));
let serial = 0;

/** A folder with these files. */
function folder(files: Readonly<Record<string, string | Uint8Array>>): string {
  const path = join(root, String(serial++));
  mkdirSync(path);
  for (const [name, content] of Object.entries(files)) {
    mkdirSync(join(path, name, ".."), { recursive: true });
    writeFileSync(join(path, name), content);
  }
  return path;
}

async function readAll(
  paths: string | string[],
  options: SourceOptions = {},
): Promise<{ documents: Document[]; problems: Problem[] }> {
  const documents: Document[] = [];
  const problems: Problem[] = [];
  for await (const item of readDocuments([paths].flat(), { name: "s", ...options })) {
    if (isProblem(item)) problems.push(item);
    else documents.push(item);
  }
  return { documents, problems };
}

const file = (name: string, content: string | Uint8Array, options: SourceOptions = {}) =>
  readAll(join(folder({ [name]: content }), name), options);
const collect = async <T>(items: AsyncIterable<T>): Promise<T[]> => {
  const all: T[] = [];
  for await (const item of items) all.push(item);
  return all;
};
const texts = ({ documents }: { documents: Document[] }) => documents.map((document) => document.text);
const codes = ({ problems }: { problems: Problem[] }) => problems.map((problem) => problem.code);

const article = (topic: string) =>
  `<html><head><title>${topic}</title></head><body><p>A page about the ${topic}, with a sentence that is long enough to be one, and another.</p></body></html>`;
const pageText = (topic: string) =>
  `A page about the ${topic}, with a sentence that is long enough to be one, and another.`;

/** The smallest frame of Zstandard (RFC 8878) with its bytes as they are. */
function zstd(text: string): Buffer {
  const data = Buffer.from(text);
  const header = Buffer.alloc(3);
  header.writeUIntLE((data.length << 3) | 1, 0, 3);
  const size = Buffer.alloc(4);
  size.writeUInt32LE(data.length);
  return Buffer.concat([Buffer.from([0x28, 0xb5, 0x2f, 0xfd, 0xa0]), size, header, data]);
}

describe("formats", () => {
  test("plain text and Markdown with its front matter", async () => {
    const path = folder({
      "b/two.md": '---\ntitle: "Two"\nauthor: Ann\ndate: 2024-05-06\nlang: en\n---\n# Two\n\nText.',
      "a.txt": "One.\r\nMore.\r\n",
      "empty-ish.txt": " \n ",
      "c.png": "png",
    });
    const read = await readAll(path);
    expect(read.documents).toEqual([
      { id: "s/a.txt", text: "One.\nMore.", source: "s", meta: { path: join(path, "a.txt"), mediaType: "text/plain" } },
      {
        id: "s/b/two.md",
        text: "# Two\n\nText.",
        source: "s",
        meta: {
          path: join(path, "b/two.md"),
          mediaType: "text/markdown",
          title: "Two",
          author: "Ann",
          date: "2024-05-06",
          language: "en",
        },
      },
    ]);
    expect(codes(read)).toEqual(["empty"]);
  });

  test("a long text becomes several documents, cut between paragraphs, and nothing is lost", async () => {
    const long = Array.from({ length: 300 }, (_, i) => `Paragraph ${i} of a text. 🐘`).join("\n\n");
    const read = await file("long.txt", long, { limits: { text: 1000 } });
    expect(read.documents.length).toBeGreaterThan(5);
    expect(texts(read).join("\n\n")).toBe(long);
    expect(read.documents[1]).toMatchObject({ meta: { record: 2 } });
    expect(read.documents[1]!.id).toMatch(/long\.txt#2$/);
  });

  test("a text much larger than memory allows for goes through in pieces", { timeout: 30_000 }, async () => {
    const path = join(folder({ "big.txt": "" }), "big.txt");
    const line = `${"word ".repeat(2000)}\n\n`;
    writeFileSync(path, line.repeat(12_000));
    const before = process.memoryUsage().rss;
    let length = 0;
    let most = 0;
    for await (const item of readDocuments([path])) {
      if (!isProblem(item)) length += item.text.length;
      most = Math.max(most, process.memoryUsage().rss);
    }
    expect(length).toBeGreaterThan(119e6);
    expect(most - before).toBeLessThan(200e6);
  });

  test("JSONL: text found by its name, fields, and a line that is not JSON named by file and line", async () => {
    const path = join(folder({ "rows.jsonl": "" }), "rows.jsonl");
    writeFileSync(
      path,
      `{"text": "One", "url": "https://example.com", "meta": {"language": "DE"}, "score": 3}\nnot json\n\n"A string"\n{"text": null}\n{"text": ["a", "b"]}\n[1]\n`,
    );
    const read = await readAll(path, { keep: ["score"] });
    expect(texts(read)).toEqual(["One", "A string", "a\nb"]);
    expect(read.documents[0]!.meta).toMatchObject({
      record: 1,
      url: "https://example.com",
      language: "de",
      extra: { score: 3 },
    });
    expect(read.problems.map(({ path: place, code }) => [place, code])).toEqual([
      [`${path}:2`, "malformed"],
      [`${path}:5`, "empty"],
      [`${path}:7`, "malformed"],
    ]);
    expect(read.problems[0]!.reason).toMatch(/not JSON/);
  });

  test("JSONL: another field by option, a line over the limit, many problems as one", async () => {
    expect(texts(await file("a.jsonl", '{"x": {"y": "deep"}, "text": "no"}', { textField: "x.y" }))).toEqual(["deep"]);
    const long = await file("a.jsonl", `{"text": "${"a".repeat(5000)}"}\n{"text": "b"}\n`, { limits: { line: 1000 } });
    expect(texts(long)).toEqual(["b"]);
    expect(codes(long)).toEqual(["too-large"]);
    const many = await file("a.jsonl", `${"{\n".repeat(500)}{"text": "b"}`);
    expect(many.problems).toHaveLength(21);
    expect(many.problems.at(-1)!.reason).toMatch(/^480 more problems/);
    expect(texts(many)).toEqual(["b"]);
  });

  test("JSON: a list, one object, one list inside", async () => {
    expect(texts(await file("a.json", '[{"content": "a"}, {"content": "b"}]'))).toEqual(["a", "b"]);
    expect(texts(await file("a.json", '{"text": "a"}'))).toEqual(["a"]);
    expect(texts(await file("a.json", '{"version": "1", "data": [{"paragraphs": ["a", "b"]}]}'))).toEqual(["a\nb"]);
    expect(codes(await file("a.json", "{"))).toEqual(["malformed"]);
    expect((await file("a.json", '[{"surname": "x", "place": "y"}]')).problems[0]!.reason).toMatch(/surname, place/);
  });

  test("JSON: lists and lines of any size go through in pieces, and what is wrong in them costs itself only", async () => {
    const rows = Array.from({ length: 2000 }, (_, i) => ({ text: `Row ${i}: [a, "b"] {c} \\ ${"x".repeat(i % 50)}!` }));
    const small = { limits: { whole: 5000, line: 2000 } };
    const want = rows.map((row) => row.text);
    const list = await file("a.json", JSON.stringify(rows), small);
    expect(texts(list)).toEqual(want);
    expect(list.documents[1999]!.id).toMatch(/a\.json#2000$/);
    expect(texts(await file("a.json", JSON.stringify(rows, undefined, 2), small))).toEqual(want);
    // As C4 has them: lines in a file called .json.gz.
    const lines = await file("a.json.gz", gzipSync(rows.map((row) => `${JSON.stringify(row)}\n`).join("")), small);
    expect(texts(lines)).toEqual(want);
    expect(lines.documents[0]!.meta.mediaType).toBe("application/jsonl");

    const bad = await file("a.json", `[{"text": "a"}, {"text": b}, {"text": "${"c".repeat(3000)}"}, "d"]`, small);
    expect(texts(bad)).toEqual(["a", "d"]);
    expect(bad.problems.map(({ path, code }) => [path.slice(-2), code])).toEqual([
      ["#2", "malformed"],
      ["#3", "too-large"],
    ]);
    const cut = await file("a.json", '[{"text": "a"}, {"text": "b');
    expect([texts(cut), codes(cut)]).toEqual([["a"], ["malformed"]]);
    expect(cut.problems[0]!.reason).toMatch(/cut off after 1/);
    for (const text of ['[{"text": "a"}] x', '["a",,"b"]', '["a",]'])
      expect(codes(await file("a.json", text)), text).toEqual(["malformed"]);
    expect(await file("a.json", " [ ] ")).toMatchObject({ documents: [], problems: [] });
    expect(texts(await file("a.json", '{"text": "a"}\n'))).toEqual(["a"]);
  });

  test("CSV: quotes, line ends inside of fields, semicolons, wrong counts, an open quote", async () => {
    const read = await file(
      "a.csv",
      'id,text,url\r\n1,"He said ""yes"",\r\nthen left",https://example.com/1\r\n2,plain,\r\n3,short\r\n',
    );
    expect(texts(read)).toEqual(['He said "yes",\nthen left', "plain"]);
    expect(read.documents[0]!.meta).toMatchObject({ record: 1, url: "https://example.com/1" });
    expect(read.problems[0]).toMatchObject({ code: "malformed", path: expect.stringMatching(/:5$/) });
    expect(texts(await file("a.csv", "id;text\n1;eins\n2;zwei"))).toEqual(["eins", "zwei"]);
    expect(texts(await file("a.tsv", "id\ttext\n1\tein,s"))).toEqual(["ein,s"]);
    expect(codes(await file("a.csv", 'text,b\n"open,1\n'))).toEqual(["malformed"]);
    expect(codes(await file("a.csv", "a,b\n1,2\n"))).toEqual(["unsupported"]);
  });

  test.each(["snappy", "zstd", "gzip"])("Parquet packed with %s, written by pyarrow", async (codec) => {
    const read = await readAll(join(import.meta.dirname, `../golden/parquet/${codec}.parquet`), {
      keep: ["id", "score"],
    });
    expect(read.problems).toEqual([]);
    expect(texts(read)).toEqual(Array.from({ length: 7 }, (_, i) => `Row ${i + 1}: a short text, 短文, 🐘.`));
    expect(read.documents[6]!.meta).toMatchObject({
      record: 7,
      url: "https://example.com/7",
      extra: { id: 7, score: 0.5 },
    });
    expect(codes(await file("x.parquet", "PAR1 and nothing more"))).toEqual(["malformed"]);
  });

  test("PDF: a document a page, with its number and what the file says of itself", async () => {
    const read = await file("a.pdf", makePdf(["The first page.", "", "The third page."]));
    expect(read.documents.map(({ text, meta: { page, title, date } }) => ({ text, page, title, date }))).toEqual([
      { text: "The first page.", page: 1, title: "A small file", date: "2024-02-03" },
      { text: "The third page.", page: 3, title: "A small file", date: "2024-02-03" },
    ]);
    expect(read.documents[1]!.id).toMatch(/a\.pdf#3$/);
    expect(codes(await file("a.pdf", makePdf([""])))).toEqual(["empty"]);
    expect(codes(await file("a.pdf", "%PDF-1.4 and then nothing"))).toEqual(["malformed"]);
    const locked = await file("a.pdf", makePdf(["Secret"], { password: true }));
    expect(codes(locked)).toEqual(["encrypted"]);
    expect(locked.problems[0]!.reason).toMatch(/password/);
  });

  test("PDF: Chinese in a font that is not in the file is read, or said to be missing; never lost in silence", async () => {
    const read = await file("a.pdf", makePdf(["中文的一行在这里。"], { chinese: true }));
    if (read.documents.length > 0) expect([texts(read), codes(read)]).toEqual([["中文的一行在这里。"], []]);
    else {
      expect(codes(read)).toEqual(["package"]);
      expect(read.problems[0]!.reason).toMatch(/UniGB-UCS2-H.*npm install pdfjs-dist/);
    }
  });

  test("Word: paragraphs, lists, tables; deleted text is gone", async () => {
    const body =
      "<w:p><w:pPr><w:pStyle/></w:pPr><w:r><w:t>A </w:t></w:r><w:ins><w:r><w:t>heading</w:t></w:r></w:ins><w:del><w:r><w:delText>gone</w:delText></w:r></w:del></w:p>" +
      "<w:p><w:pPr><w:numPr/></w:pPr><w:r><w:t>one &amp; all</w:t></w:r></w:p><w:p><w:pPr><w:numPr/></w:pPr><w:r><w:t>two</w:t><w:br/><w:t>lines</w:t></w:r></w:p>" +
      "<w:tbl><w:tr><w:tc><w:p><w:r><w:t>a</w:t></w:r></w:p></w:tc><w:tc><w:p><w:r><w:t>b</w:t></w:r></w:p></w:tc></w:tr></w:tbl>";
    const docx = makeZip({
      "[Content_Types].xml": "<x/>",
      "word/document.xml": `<?xml version="1.0"?><w:document><w:body>${body}</w:body></w:document>`,
      "docProps/core.xml":
        "<cp:coreProperties><dc:title>T</dc:title><dc:creator>Ann</dc:creator><dcterms:created>2024-01-02T00:00:00Z</dcterms:created></cp:coreProperties>",
    });
    const read = await file("a.docx", docx);
    expect(texts(read)).toEqual(["A heading\n\n- one & all\n- two\nlines\n\na | b"]);
    expect(read.documents[0]!.meta).toMatchObject({ title: "T", author: "Ann", date: "2024-01-02T00:00:00Z" });
    expect(codes(await file("a.docx", makeZip({ "x.xml": "<x/>" })))).toEqual(["malformed"]);
    expect(codes(await file("a.docx", Buffer.from("d0cf11e0a1b11ae1", "hex")))).toEqual(["encrypted"]);
  });

  test("EPUB: chapters in reading order", async () => {
    const epub = makeZip({
      mimetype: "application/epub+zip",
      "META-INF/container.xml": '<container><rootfiles><rootfile full-path="OPS/book.opf"/></rootfiles></container>',
      "OPS/book.opf":
        '<package><metadata><dc:title>Book</dc:title><dc:language>fr</dc:language></metadata><manifest><item id="b" href="text/2.xhtml"/><item id="a" href="text/1.xhtml"/></manifest><spine><itemref idref="a"/><itemref idref="b"/></spine></package>',
      "OPS/text/1.xhtml": "<html><head><title/></head><body><h1>I</h1><p>First.</p></body></html>",
      "OPS/text/2.xhtml": "<html><body><p>Second.</p></body></html>",
    });
    const read = await file("a.epub", epub);
    expect(read.documents.map(({ text, meta }) => [text, meta.page, meta.title, meta.language])).toEqual([
      ["I\n\nFirst.", 1, "Book", "fr"],
      ["Second.", 2, "Book", "fr"],
    ]);
  });

  test(".po: what was translated and its translation, without fuzzy and untranslated messages", async () => {
    const read = await file(
      "a.po",
      'msgid ""\nmsgstr ""\n"Language: zh_CN\\n"\n\n#: a.c:1\nmsgid "One"\nmsgstr "一"\n\n#, fuzzy\nmsgid "Bad"\nmsgstr "坏"\n\nmsgid ""\n"Two "\n"lines\\n"\nmsgstr "两行"\n\nmsgid "Not yet"\nmsgstr ""\n\n#~ msgid "Old"\n#~ msgstr "旧"\n',
    );
    expect(texts(read)).toEqual(["One\n\nTwo lines", "一\n\n两行"]);
    expect(read.documents[1]!.meta.language).toBe("zh-CN");
  });

  test(".po: a large catalogue becomes several documents of each kind, and no message is lost", async () => {
    const messages = Array.from({ length: 100 }, (_, i) => `msgid "Message ${i}"\nmsgstr "消息 ${i}"\n\n`).join("");
    const { documents } = await file("a.po", messages, { limits: { text: 200 } });
    const of = (kind: string) => documents.filter((d) => d.id.includes(`#${kind}`));
    expect(of("original").length).toBeGreaterThan(3);
    expect(new Set(documents.map((d) => d.id)).size).toBe(documents.length);
    const joined = (kind: string) =>
      of(kind)
        .map((d) => d.text)
        .join("\n\n");
    expect(joined("original")).toBe(Array.from({ length: 100 }, (_, i) => `Message ${i}`).join("\n\n"));
    expect(joined("translation")).toBe(Array.from({ length: 100 }, (_, i) => `消息 ${i}`).join("\n\n"));
  });
});

describe("web archives", () => {
  const record = (type: string, headers: string, body: Buffer | string, length?: number) => {
    const block = Buffer.from(body as string);
    return Buffer.concat([
      Buffer.from(`WARC/1.0\r\nWARC-Type: ${type}\r\n${headers}Content-Length: ${length ?? block.length}\r\n\r\n`),
      block,
      Buffer.from("\r\n\r\n"),
    ]);
  };
  const response = (url: string, fields: string, body: Buffer | string, status = "200 OK") =>
    record(
      "response",
      `WARC-Target-URI: ${url}\r\nWARC-Date: 2024-05-06T07:08:09Z\r\nContent-Type: application/http; msgtype=response\r\n`,
      Buffer.concat([Buffer.from(`HTTP/1.1 ${status}\r\n${fields}\r\n`), Buffer.from(body as string)]),
    );
  const html = "Content-Type: text/html; charset=utf-8\r\n";

  test("pages one by one, with chunks, gzip, Brotli and deflate taken off; other records passed over", async () => {
    const body = Buffer.from(article("whale"));
    const chunked = Buffer.concat([
      Buffer.from("5\r\n"),
      body.subarray(0, 5),
      Buffer.from(`\r\n${(body.length - 5).toString(16)};x=1\r\n`),
      body.subarray(5),
      Buffer.from("\r\n0\r\n\r\n"),
    ]);
    const records = [
      record("warcinfo", "", "software: x"),
      response("https://example.com/1", html, article("elephant")),
      response("https://example.com/2", `${html}Transfer-Encoding: chunked\r\n`, chunked),
      response("https://example.com/3", `${html}Content-Encoding: gzip\r\n`, gzipSync(article("gnu"))),
      response("https://example.com/4", `${html}Content-Encoding: br\r\n`, brotliCompressSync(article("bear"))),
      response("https://example.com/5", `${html}Content-Encoding: deflate\r\n`, deflateSync(article("deer"))),
      response("https://example.com/6", `${html}Content-Encoding: gzip\r\n`, article("already unpacked")),
      response("https://example.com/7", html, article("missing"), "404 Not Found"),
      response("https://example.com/8", "Content-Type: image/png\r\n", "png"),
      record(
        "conversion",
        "WARC-Target-URI: https://example.com/9\r\nContent-Type: text/plain\r\n",
        "Plain text of a page.",
      ),
    ];
    const read = await file("a.warc.gz", Buffer.concat(records.map((one) => gzipSync(one))));
    expect(read.problems).toEqual([]);
    expect(texts(read)).toEqual([
      ...["elephant", "whale", "gnu", "bear", "deer", "already unpacked"].map(pageText),
      "Plain text of a page.",
    ]);
    expect(read.documents[0]!.meta).toMatchObject({
      url: "https://example.com/1",
      record: 2,
      title: "elephant",
      mediaType: "text/html",
      extra: { fetched: "2024-05-06T07:08:09Z" },
    });
  });

  test("a wrong length costs its record; a cut archive, what is after the cut; a large record, itself", async () => {
    const good = (n: number) => response(`https://example.com/${n}`, html, article(`animal ${n}`));
    const wrong = record(
      "response",
      "WARC-Target-URI: https://example.com/x\r\nContent-Type: application/http\r\n",
      `HTTP/1.1 200 OK\r\n${html}\r\n${article("x")}`,
      20,
    );
    const read = await file("a.warc", Buffer.concat([good(1), wrong, good(2)]));
    expect(texts(read)).toEqual([pageText("animal 1"), pageText("animal 2")]);
    expect(codes(read)).toContain("malformed");
    const cut = await file("a.warc.gz", Buffer.concat([gzipSync(good(1)), gzipSync(good(2)).subarray(0, -60)]));
    expect(texts(cut)[0]).toBe(pageText("animal 1"));
    expect(cut.problems[0]).toMatchObject({ code: "malformed", reason: expect.stringMatching(/cut off/) });
    const large = await file(
      "a.warc",
      Buffer.concat([response("https://example.com/l", html, `<p>${"x".repeat(5000)}</p>`), good(2)]),
      { limits: { whole: 2000 } },
    );
    expect([texts(large), codes(large)]).toEqual([[pageText("animal 2")], ["too-large"]]);
    expect(codes(await file("a.warc", "no records here\n"))).toContain("malformed");
  });
});

describe("archives and compression", () => {
  test("text in another encoding after kilobytes of ASCII is read in it, declared or not", async () => {
    const ascii = "An ASCII line of text.\n".repeat(6000);
    const gbk = Buffer.from("1eLKx9K7uPay4srUzsS8/qGj1tC5+rXEyte2vMrHsbG+qaOsyMu/2tbatuCjrMD6yrfTxr7DoaM=", "base64");
    const text = new TextDecoder("gbk").decode(gbk);
    for (const size of [100, 3000, 6000]) {
      const read = await file("late.txt", Buffer.concat([Buffer.from(ascii.slice(0, size * 23)), gbk]));
      expect(read.problems, `${size}`).toEqual([]);
      expect(texts(read).join("\n").endsWith(text)).toBe(true);
      expect(read.documents[0]!.meta.encoding).toBe("gb18030");
    }
  });

  test("gzip, several gzip members, zstd, several zstd frames, ZIP, and those inside one another", async () => {
    const path = folder({
      "a.txt.gz": Buffer.concat([gzipSync("one "), gzipSync("text")]),
      "b.jsonl.zst": Buffer.concat([zstd('{"text": "first"}\n'), zstd('{"text": "second"}\n')]),
      "c.zip": makeZip({
        "in/x.md": "# X",
        "in/y.csv.gz": gzipSync("text\nfrom csv\n"),
        "z.zip": makeZip({ "deep.txt": "deep" }),
        "__MACOSX/in/x.md": "no",
        ".hidden": "no",
      }),
    });
    const read = await readAll(path);
    expect(read.problems).toEqual([]);
    expect(read.documents.map(({ id, text }) => [id, text])).toEqual([
      ["s/a.txt.gz", "one text"],
      ["s/b.jsonl.zst#1", "first"],
      ["s/b.jsonl.zst#2", "second"],
      ["s/c.zip!/in/x.md", "# X"],
      ["s/c.zip!/in/y.csv.gz#1", "from csv"],
      ["s/c.zip!/z.zip!/deep.txt", "deep"],
    ]);
    expect(read.documents[5]!.meta.member).toBe("z.zip!/deep.txt");
  });

  test("truncated gzip: what came before the cut is kept, and the cut is said", async () => {
    const lines = Array.from({ length: 20_000 }, (_, i) => JSON.stringify({ text: `Line ${i} ${Math.sin(i)}` })).join(
      "\n",
    );
    const packed = gzipSync(lines);
    const read = await file("a.jsonl.gz", packed.subarray(0, packed.length >> 1));
    expect(read.documents.length).toBeGreaterThan(1000);
    expect(read.problems).toMatchObject([{ code: "malformed", reason: expect.stringMatching(/cut off/) }]);
    const damaged = Buffer.from(packed);
    damaged.fill(0, packed.length >> 1, (packed.length >> 1) + 100);
    const rest = await file("a.jsonl.gz", damaged);
    expect(rest.documents.length).toBeGreaterThan(1000);
    expect(codes(rest)).toContain("malformed");
    expect(codes(await file("a.txt.gz", "not gzip"))).toEqual(["malformed"]);
    expect(codes(await file("a.txt.zst", zstd("some text").subarray(0, 12)))).toEqual(["malformed"]);
  });

  test("bombs: by ratio, by size, by lying about the size, by nesting", async () => {
    const zeros = gzipSync(Buffer.alloc(40 * 2 ** 20, 97));
    expect(codes(await file("a.txt.gz", zeros))).toContain("bomb");
    const path = folder({
      "b.zip": makeZip({ "good.txt": "fine", "bomb.txt": Buffer.alloc(40 * 2 ** 20, 97), "after.txt": "fine too" }),
    });
    const zip = await readAll(path, { limits: { text: 2 ** 30 } });
    expect([texts(zip), codes(zip)]).toEqual(
      [["fine", "fine too"], ["bomb"]].map((one) => expect.arrayContaining(one)),
    );
    expect(codes(await file("a.txt.gz", gzipSync("x".repeat(5000)), { limits: { unpacked: 1000 } }))).toEqual([
      "too-large",
    ]);
    expect(codes(await file("a.zip", makeZip({ "a.txt": "x".repeat(1000) }, { sizes: () => 10 })))).toEqual(["bomb"]);
    let nested: Uint8Array = Buffer.from("core");
    for (let i = 0; i < 6; i++) nested = gzipSync(nested);
    expect(codes(await file("a.txt.gz", nested))).toEqual(["bomb"]);
  });

  test("ZIP: a password, a cut, a wrong checksum, a thousand members too many", async () => {
    expect(codes(await file("a.zip", makeZip({ "a.txt": "x" }, { encrypted: true })))).toEqual(["encrypted"]);
    const zip = makeZip({ "a.txt": "some text here", "b.txt": "more" });
    expect(codes(await file("a.zip", zip.subarray(0, 40)))).toEqual(["malformed"]);
    const damaged = Buffer.from(zip);
    damaged[40]! ^= 0xff;
    const read = await file("a.zip", damaged);
    expect([texts(read), codes(read)]).toEqual([["more"], ["malformed"]]);
    expect(codes(await file("a.zip", zip, { limits: { members: 1 } }))).toEqual(["too-large"]);
  });
});

describe("bad input costs itself only", () => {
  test("empty, binary, of a kind that is not read", async () => {
    const path = folder({
      "a.txt": "fine",
      "empty.txt": "",
      "noise.txt": Uint8Array.from({ length: 3000 }, (_, i) => (i * 7919 + ((i * i) >> 3)) & 255),
      "old.doc": "x",
      "z.txt": "fine too",
    });
    const read = await readAll(path);
    expect(texts(read)).toEqual(["fine", "fine too"]);
    expect(codes(read)).toEqual(["empty", "binary", "unsupported"]);
    expect(read.problems[2]!.reason).toMatch(/docx/);
    const picture = await file("named.png", Buffer.from("89504e470d0a1a0a", "hex"));
    expect(codes(picture)).toEqual(["unsupported"]);
  });

  test("links: to nothing, to themselves, back to their folder, to a file that is there anyway", async () => {
    const path = folder({ "in/a.txt": "once" });
    symlinkSync("nowhere", join(path, "dangling.txt"));
    symlinkSync("self", join(path, "self"));
    symlinkSync("..", join(path, "in/up"));
    symlinkSync("in/a.txt", join(path, "same.txt"));
    symlinkSync("in", join(path, "other"));
    const read = await readAll(path);
    expect(texts(read)).toEqual(["once"]);
    expect(read.problems.map(({ path: place, code }) => [place.slice(path.length + 1), code])).toEqual([
      ["dangling.txt", "missing"],
      ["in/up", "unreadable"],
      ["self", "unreadable"],
    ]);
  });

  test.skipIf(process.getuid?.() === 0)(
    "a folder without permission (root may read everything, so not as root)",
    async () => {
      const path = folder({ "shut/a.txt": "hidden", "b.txt": "seen" });
      await chmod(join(path, "shut"), 0o000);
      const read = await readAll(path);
      await chmod(join(path, "shut"), 0o755);
      expect([texts(read), codes(read)]).toEqual([["seen"], ["unreadable"]]);
    },
  );

  test("a file that vanishes between listing and reading, one that shrinks, one that was never there", async () => {
    const path = folder({ "a.txt": "a", "b.txt": "b" });
    const found: (Document | Problem)[] = [];
    for await (const input of listInputs([path])) {
      if (isProblem(input)) throw new Error(input.reason);
      if (input.name === "a.txt") rmSync(input.path);
      else truncateSync(input.path, 0);
      for await (const item of readInput(input)) if (!isRaw(item)) found.push(item);
    }
    expect(found).toMatchObject([{ code: "missing" }, { code: "empty" }]);
    expect(codes(await readAll(join(path, "never")))).toEqual(["missing"]);
  });

  test("a page of 200 MB is refused without being read; a long one is read", { timeout: 30_000 }, async () => {
    const path = join(folder({ "big.html": "<html>" }), "big.html");
    truncateSync(path, 200 * 2 ** 20);
    const before = process.memoryUsage().rss;
    const read = await readAll(path);
    expect(read.problems).toMatchObject([{ code: "too-large", reason: expect.stringMatching(/200 MB/) }]);
    expect(process.memoryUsage().rss - before).toBeLessThan(50 * 2 ** 20);
    expect((await file("a.html", article("snail").repeat(50_000))).documents).toHaveLength(1);
  });

  test("raw items can be extracted elsewhere, with the same result", async () => {
    const path = folder({ "a.html": article("ant"), "b.txt": "b", "c.pdf": makePdf(["c"]) });
    const direct = await readAll(path);
    const apart: unknown[] = [];
    for await (const input of listInputs([path])) {
      if (isProblem(input)) continue;
      for await (const item of readInput(input, { name: "s" })) {
        if (!isRaw(item)) apart.push(item);
        else for await (const document of extractRaw(structuredClone(item))) apart.push(document);
      }
    }
    expect(apart).toEqual(direct.documents);
  });

  test("ids differ: of files of one name in two folders; a file that two paths name is read once", async () => {
    const [one, two] = [folder({ "a.txt": "one" }), folder({ "a.txt": "two" })];
    const read = await readAll([one, two, `${one}/*.txt`, join(two, "a.txt")]);
    expect(texts(read)).toEqual(["one", "two"]);
    expect(new Set(read.documents.map(({ id }) => id)).size).toBe(2);
  });

  test("a source can be read again, and an aborted one stops", async () => {
    const source = sourceOf([folder({ "a.txt": "a", "b.txt": "b" })], { name: "s" });
    const first = await collect(source.read());
    expect(await collect(source.read())).toEqual(first);
    const controller = new AbortController();
    controller.abort();
    await expect(collect(source.read({ signal: controller.signal }))).rejects.toThrow(/abort/i);
  });
});

test.each([
  ["hyparquet", "a.parquet", "PAR1"],
  ["unpdf", "a.pdf", "%PDF-1.4"],
])("without the optional package %s, the problem says what to install", async (name, file_, content) => {
  vi.doMock(name, () => {
    throw new Error(`Cannot find package '${name}'`);
  });
  vi.resetModules();
  const { readDocuments: read } = await import("../../src/data/sources/index.ts");
  const problems = await collect(read([join(folder({ [file_]: content }), file_)]));
  expect(problems).toMatchObject([{ code: "package", reason: expect.stringContaining(`npm install ${name}`) }]);
  vi.doUnmock(name);
});

test("globs", async () => {
  const fits = (glob: string, names: string[]) => names.filter((name) => globPattern(glob).test(name));
  expect(fits("**/*.{md,txt}", ["a.md", "x/y/b.txt", "c.html"])).toEqual(["a.md", "x/y/b.txt"]);
  expect(fits("[a-c]?.md", ["ab.md", "zb.md", "a/b.md"])).toEqual(["ab.md"]);
  expect(fits("a+(b).md", ["a+(b).md", "aab.md"])).toEqual(["a+(b).md"]);
  const path = folder({ "x/a.md": "a", "x/b.txt": "b", "y/c.md": "c" });
  expect(texts(await readAll(`${path}/**/*.md`))).toEqual(["a", "c"]);
  expect(codes(await readAll(`${path}/*.nothing`))).toEqual(["missing"]);
});

describe("addresses", () => {
  const servers: ReturnType<typeof createServer>[] = [];
  afterEach(() => {
    for (const server of servers.splice(0)) server.close();
    vi.unstubAllEnvs();
  });
  async function serve(handler: RequestListener): Promise<string> {
    const server = createServer(handler).listen(0, "127.0.0.1");
    servers.push(server);
    await once(server, "listening");
    return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  }

  test("a page, a packed file, an archive by ranges; what a server refuses", async () => {
    const zip = makeZip({ "a.txt": "from a zip" });
    const ranges: string[] = [];
    const base = await serve((request, response) => {
      if (request.url === "/page") response.setHeader("content-type", "text/html; charset=utf-8").end(article("newt"));
      else if (request.url === "/rows.jsonl.gz") response.end(gzipSync('{"text": "row"}'));
      else if (request.url === "/a.zip") {
        const [, from, to] = /bytes=(\d+)-(\d+)/.exec(request.headers.range ?? "") ?? [];
        if (from === undefined) response.end(zip);
        else {
          ranges.push(`${from}-${to}`);
          response
            .writeHead(206, { "content-range": `bytes ${from}-${to}/${zip.length}` })
            .end(zip.subarray(Number(from), Number(to) + 1));
        }
      } else response.writeHead(404).end();
    });
    const read = await readAll(["/page", "/rows.jsonl.gz", "/a.zip", "/none"].map((path) => base + path));
    expect(texts(read)).toEqual([pageText("newt"), "row", "from a zip"]);
    expect(read.documents[0]!.meta).toMatchObject({ url: `${base}/page`, title: "newt" });
    expect(ranges.length).toBeGreaterThan(2);
    expect(read.problems).toMatchObject([{ code: "missing", path: `${base}/none` }]);
    expect(codes(await readAll("http://127.0.0.1:1/x"))).toEqual(["network"]);
  });

  test("a transfer that breaks off is taken up where it broke off, with or without ranges, if it is still the same", async () => {
    const rows = Array.from({ length: 3000 }, (_, i) => `${JSON.stringify({ text: `Row ${i} ${"x".repeat(90)}` })}\n`);
    const whole = Buffer.from(rows.join(""));
    const asked: Record<string, string[]> = {};
    const base = await serve((request, response) => {
      const path = request.url!;
      asked[path] ??= [];
      const count = asked[path].push(request.headers.range ?? "all");
      const from = path === "/no-ranges.jsonl" ? 0 : Number(/bytes=(\d+)-/.exec(request.headers.range ?? "")?.[1] ?? 0);
      const tag = path === "/changes.jsonl" ? `"${count}"` : '"same"';
      const ranged = from > 0 && (request.headers["if-range"] === undefined || request.headers["if-range"] === tag);
      const body = ranged ? whole.subarray(from) : whole;
      response.writeHead(ranged ? 206 : 200, {
        etag: tag,
        "content-length": body.length,
        ...(ranged ? { "content-range": `bytes ${from}-${whole.length - 1}/${whole.length}` } : {}),
      });
      // Every transfer but the fourth breaks off after a part of it.
      if (count >= 4 && path !== "/never.jsonl") response.end(body);
      else if (path === "/never.jsonl" && count > 1) response.destroy();
      else
        response.write(body.subarray(0, 70_001 * (path === "/no-ranges.jsonl" ? count : 1)), () =>
          setTimeout(() => response.destroy(), 20),
        );
    });
    const want = rows.map((_, i) => `Row ${i} ${"x".repeat(90)}`);
    for (const path of ["/ranges.jsonl", "/no-ranges.jsonl"]) {
      const read = await readAll(base + path);
      expect(read.problems, path).toEqual([]);
      expect(texts(read)).toEqual(want);
    }
    expect(asked["/ranges.jsonl"]!.slice(0, 2)).toEqual(["all", "bytes=70001-"]);
    expect(asked["/ranges.jsonl"]).toHaveLength(4);
    const changed = await readAll(`${base}/changes.jsonl`);
    expect(texts(changed)).toEqual(want.slice(0, changed.documents.length));
    expect(changed.problems).toMatchObject([{ code: "network", reason: expect.stringMatching(/changed meanwhile/) }]);
    const never = await readAll(`${base}/never.jsonl`);
    expect(never.documents.length).toBeGreaterThan(100);
    expect(codes(never)).toEqual(["network"]);
  }, 30_000);

  test("a data set of the Hugging Face hub: its files by its card, with licence, language and token", async () => {
    const parquet = await readFile(join(import.meta.dirname, "../golden/parquet/snappy.parquet"));
    const card =
      "---\nlicense: cc-by-4.0\nlanguage:\n- zh\nconfigs:\n- config_name: other\n  data_files: other/*\n- config_name: main\n  default: true\n  data_files:\n  - split: train\n    path: data/train-*.parquet\n---\n# Card";
    const tokens = new Set<string | undefined>();
    const base = await serve((request, response) => {
      tokens.add(request.headers.authorization);
      const files: Record<string, Buffer | string> = {
        "/datasets/me/set/resolve/main/README.md": card,
        "/datasets/me/set/resolve/main/data/train-0.parquet": parquet,
        "/datasets/me/set/resolve/main/other/x.jsonl": '{"text": "other"}',
        "/api/datasets/me/set/tree/main?recursive=true": JSON.stringify(
          ["README.md", "data/train-0.parquet", "other/x.jsonl"].map((path) => ({ type: "file", path, size: 1 })),
        ),
      };
      const body = files[request.url ?? ""];
      if (body === undefined) response.writeHead(404).end();
      else response.end(body);
    });
    vi.stubEnv("HF_ENDPOINT", base);
    vi.stubEnv("HF_TOKEN", "hf_secret");
    const read = await readAll("hf://datasets/me/set");
    expect(read.problems).toEqual([]);
    expect(read.documents).toHaveLength(7);
    expect(read.documents[0]).toMatchObject({
      id: "s/me/set@main/data/train-0.parquet#1",
      meta: { licence: "cc-by-4.0", language: "zh" },
    });
    expect([...tokens]).toEqual(["Bearer hf_secret"]);
    expect(texts(await readAll("hf://datasets/me/set?other"))).toEqual(["other"]);
    expect(texts(await readAll("hf://datasets/me/set/other"))).toEqual(["other"]);
    expect((await readAll("hf://datasets/me/set?none")).problems[0]!.reason).toMatch(/other, main/);
    expect(codes(await readAll("hf://datasets/me/none"))).toEqual(["missing"]);
    expect(codes(await readAll("hf://models/x"))).toEqual(["missing"]);
  });

  test("a folder that is a data set: its data files with its licence, not its card", async () => {
    const path = folder({
      "README.md": "---\nlicense: mit\n---\n# Card",
      "data/a.jsonl": '{"text": "row"}',
      "dataset_info.json": "{}",
      "script.py": "x",
    });
    const read = await readAll(path);
    expect(read.documents).toMatchObject([{ text: "row", meta: { licence: "mit" } }]);
    expect(read.problems).toEqual([]);
  });
});
