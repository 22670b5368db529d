import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { parseHtml } from "../../src/data/extract/html-tree.ts";
import { isoDate, languageTag } from "../../src/data/extract/page-meta.ts";
import { decodeBytes, decodePage, detectEncoding, extractPage, ReadError } from "../../src/data/index.ts";

const sentence = (topic: string, n: number): string =>
  `The ${topic} has been studied for a long time, and part ${n} of this text says what is known about it, what is not, and why that matters.`;
const paragraphs = (topic: string, count: number): string =>
  Array.from({ length: count }, (_, i) => `<p>${sentence(topic, i + 1)}</p>`).join("\n");

const page = (body: string, head = ""): string =>
  `<!DOCTYPE html><html lang="en-gb"><head><title>On elephants | The Daily Page</title>${head}</head><body>${body}</body></html>`;

describe("the main text of a page", () => {
  test("menus, teasers, comments, notices and scripts are not in it", () => {
    const { text } = extractPage(
      page(`
      <header><a href="/">Home</a><a href="/news">News</a></header>
      <nav><ul><li><a href="/a">All about ants</a></li><li><a href="/b">All about bees</a></li></ul></nav>
      <div class="wrap"><h1>On elephants</h1><div class="byline">By Ann Author</div>
        <div class="story-x">${paragraphs("elephant", 5)}<script>track("elephant")</script>
          <ul><li>Elephants eat grass, leaves, and bark.</li><li>They sleep little.</li></ul>
        </div>
        <h2>Related articles</h2><ul><li><a href="/c">${sentence("crow", 1)}</a></li></ul></div>
      <div id="comments"><p>${sentence("commenter", 1)}</p><p>${sentence("commenter", 2)}</p></div>
      <div class="cookie-bar"><p>This website uses cookies to make your experience better, and so on and so forth.</p></div>
      <footer>© 2024 The Daily Page. All rights reserved.</footer>`),
    );
    expect(text.startsWith("The elephant has been studied")).toBe(true);
    expect(text.split("\n\n")).toHaveLength(6);
    expect(text.endsWith("- Elephants eat grass, leaves, and bark.\n- They sleep little.")).toBe(true);
    for (const word of ["All about", "Ann", "track", "Related", "crow", "commenter", "cookies", "rights"])
      expect(text).not.toContain(word);
  });

  test("a page whose text is called a widget, and hidden until a script has run, keeps it", () => {
    const { text } = extractPage(
      page(
        `<div class="sidebar-widget" style="display:none">${paragraphs("elephant", 4)}</div><div class="menu"><a href="/">Home</a></div>`,
      ),
    );
    expect(text.split("\n\n")).toHaveLength(4);
  });

  test("a post that the text quotes is part of it", () => {
    const post = '<div class="social-embed"><blockquote class="twitter-tweet"><p>A short post.</p></blockquote></div>';
    const { text } = extractPage(page(`<article>${paragraphs("elephant", 2)}${post}${paragraphs("ear", 2)}</article>`));
    expect(text).toContain("A short post.");
  });

  test("text in several parts around advertisements is one text", () => {
    const part = (n: number) =>
      `<div class="article-body">${paragraphs(`elephant's ${n} aspect`, 3)}</div><div class="ad-slot">Buy now</div>`;
    const { text } = extractPage(page(`<h1>On elephants</h1><div>${part(1)}${part(2)}</div>`));
    expect(text.split("\n\n")).toHaveLength(6);
    expect(text).not.toContain("Buy");
  });

  test("of a list of articles, the one with the page's title is the page's", () => {
    const other = (n: number) => `<article class="post"><h2>Other ${n}</h2>${paragraphs(`other ${n}`, 4)}</article>`;
    const { text } = extractPage(
      page(`<article class="post"><h1>On elephants</h1>${paragraphs("elephant", 3)}</article>${other(1)}${other(2)}`),
    );
    expect(text).toContain("The elephant");
    expect(text).not.toContain("other");
  });

  test("long paragraphs that are repeated stand once, headings without text not at all; short lines may come again", () => {
    const long = `${sentence("trunk", 1)} ${sentence("trunk", 2)}`;
    const { text } = extractPage(
      page(
        `<article><p>${long}</p>${paragraphs("elephant", 3)}<p>Eat every two hours.</p><p>${long}</p><p>Eat every two hours.</p><h2>Ears</h2><p>${sentence("ear", 1)}</p><h2>Sources</h2></article>`,
      ),
    );
    expect(text.split(long)).toHaveLength(2);
    expect(text.split("Eat every")).toHaveLength(3);
    expect(text).toContain("Ears\n\nThe ear");
    expect(text).not.toContain("Sources");
  });

  test("a Chinese page, its full-width marks and emoji", () => {
    const chinese =
      "春天来了，公园里的花都开了🌸。人们在湖边散步，孩子们在草地上放风筝。老人们坐在长椅上聊天，说着过去的事情。";
    const { text, title, language } = extractPage(
      `<html lang="zh-cn"><head><title>春天的公园_城市日报</title></head><body><div class="nav"><a href="/">首页</a></div>
       <h1>春天的公园</h1><div><p>${chinese}</p><p>这座城市的每一个角落都有自己的故事，等着人们慢慢去听。</p></div><p>相关阅读</p><ul><li><a href="/1">夏天的海边</a></li></ul></body></html>`,
    );
    expect(text).toBe(`${chinese}\n\n这座城市的每一个角落都有自己的故事，等着人们慢慢去听。`);
    expect({ title, language }).toEqual({ title: "春天的公园", language: "zh-CN" });
  });

  test("a page of nothing, and one of links, has no text", () => {
    expect(extractPage("").text).toBe("");
    expect(extractPage(page(`<ul>${'<li><a href="/x">A link to a page</a></li>'.repeat(20)}</ul>`)).text).toBe("");
  });

  test("broken markup: open quotes, stray and missing end tags, depth, no end", () => {
    expect(extractPage(page(`<div class="x><p>${sentence("quote", 1)}</p>`)).text).toContain("The quote");
    expect(
      extractPage(page(`</div></p><p>${sentence("stray", 1)}<p>${sentence("stray", 2)}</span>`)).text.split("\n\n"),
    ).toHaveLength(2);
    expect(extractPage(`${"<div>".repeat(50_000)}<p>${sentence("deep", 1)}`).text).toContain("The deep");
    expect(
      extractPage(`<html><body><p>${sentence("cut", 1)}</p><!-- never closed <p>${sentence("lost", 2)}`).text,
    ).toContain("The cut");
    expect(extractPage("<".repeat(100_000)).text.length).toBeLessThanOrEqual(100_000);
  });

  test("the time for a page grows with its size, not faster", { timeout: 60_000 }, () => {
    const time = (n: number) => {
      const source = page(`<div>${paragraphs("long page", n)}</div>`);
      const start = performance.now();
      extractPage(source);
      return performance.now() - start;
    };
    time(2000);
    const small = Math.min(time(2000), time(2000), time(2000));
    expect(Math.min(time(20_000), time(20_000))).toBeLessThan(small * 40 + 50);
  });
});

test("pages that were made to be slow are not", { timeout: 60_000 }, () => {
  const n = 40_000;
  const hostile = [
    "<svg>",
    "<title>",
    "<!--",
    "<![CDATA[",
    "a<br>",
    "<a href='",
    "</b>",
    "<p><b>",
    "<li>x",
    "<td>",
    "&",
    "<div class=author>x",
    "<h1>x",
    '<x y="',
  ];
  for (const piece of hostile) {
    const start = performance.now();
    extractPage(piece.repeat(n));
    expect(performance.now() - start, piece).toBeLessThan(3000);
  }
});

test("no string is too broken", () => {
  const pieces = [
    "<p>",
    "</p>",
    "<div class='comments'>",
    "</div>",
    "<br>",
    "<table><td>",
    "</table>",
    "<h1>",
    "<script>",
    "</script>",
    "<!--",
    "-->",
    "<a href=x>",
    "</a>",
    "text and more text. ",
    "&amp",
    "&#xd800;",
    "<",
    ">",
    '"',
    "=",
    "\u0000",
    "\ud83d",
    "<pre>",
    "</pre>",
    "<title>",
    "<li>",
  ];
  fc.assert(
    fc.property(fc.array(fc.oneof(fc.constantFrom(...pieces), fc.string()), { maxLength: 80 }), (parts) => {
      const { text } = extractPage(parts.join(""));
      expect(text).toBe(text.trim());
    }),
    { numRuns: 300 },
  );
});

describe("what a page says of itself", () => {
  test("JSON-LD before meta elements before what stands in the page", () => {
    const meta = extractPage(
      page(
        `<h1>On elephants</h1>${paragraphs("elephant", 2)}`,
        `<meta property="og:title" content="Elephants &amp; friends"><meta name="author" content="By Bo Writer"><meta property="article:published_time" content="2024-05-06T07:08:09+02:00">
         <link rel="canonical" href="https://example.com/elephants"><link rel="license" href="https://creativecommons.org/licenses/by/4.0/">
         <script type="application/ld+json">{"@graph": [{"@type": "NewsArticle", "headline": "Elephants", "author": [{"name": "Ann Author"}, {"name": "Bo Writer"}]}]}</script>`,
      ),
    );
    const { text: _, ...rest } = meta;
    expect(rest).toEqual({
      title: "Elephants",
      author: "Ann Author; Bo Writer",
      date: "2024-05-06T07:08:09+02:00",
      language: "en-GB",
      url: "https://example.com/elephants",
      licence: "https://creativecommons.org/licenses/by/4.0/",
    });
  });

  test("without any, the title element without the site, the time element, the date in the address", () => {
    const bare = extractPage(page(`<time datetime="2023-02-01">1 Feb</time><p>${sentence("x", 1)}</p>`), {
      url: "https://example.com/2022/01/02/x",
    });
    expect(bare.title).toBe("On elephants");
    expect(bare.date).toBe("2023-02-01");
    expect(extractPage(page(`<p>${sentence("x", 1)}</p>`), { url: "https://example.com/2022/01/02/x" }).date).toBe(
      "2022-01-02",
    );
  });

  test("dates and languages in the ways they are written", () => {
    expect(
      [
        "2024年3月5日",
        "March 5, 2024",
        "5 March 2024",
        "20240305",
        "2024-03-05",
        "2024-13-05",
        "soon",
        "0001-01-01",
      ].map(isoDate),
    ).toEqual([...Array.from({ length: 5 }, () => "2024-03-05"), undefined, undefined, undefined]);
    expect(["en_us", "ZH-hans-cn", "de", "Chinese", ""].map(languageTag)).toEqual([
      "en-US",
      "zh-Hans-CN",
      "de",
      undefined,
      undefined,
    ]);
  });
});

describe("HTML as a tree", () => {
  const outline = (source: string): string => {
    const show = (element: ReturnType<typeof parseHtml>): string =>
      element.children.map((one) => (typeof one === "string" ? one : `${one.name}(${show(one)})`)).join("");
    return show(parseHtml(source));
  };
  test("omitted end tags", () => {
    expect(outline("<ul><li>a<li>b<ul><li>c</ul></ul>")).toBe("ul(li(a)li(bul(li(c))))");
    expect(outline("<p>a<p>b<div>c</div>")).toBe("p(a)p(b)div(c)");
    expect(outline("<table><tr><td>a<td>b<tr><td>c</table>d")).toBe("table(tr(td(a)td(b))tr(td(c)))d");
    expect(outline("<dl><dt>a<dd>b<dt>c</dl>")).toBe("dl(dt(a)dd(b)dt(c))");
  });
  test("raw text, comments, references, attributes", () => {
    expect(outline("<script>if (a<b) '</p>'</script>x<!-- <p> -->y")).toBe("script()xy");
    expect(outline("a &amp; b &eacute;&#x1F418;&#150;&notit; &unknown;")).toBe("a & b é🐘–&notit; &unknown;");
    const [link] = parseHtml(`<a href='x?a=1&amp;b=2' TITLE=plain disabled>t</a>`).children;
    expect(typeof link === "object" && Object.fromEntries(link.attributes)).toEqual({
      href: "x?a=1&b=2",
      title: "plain",
      disabled: "",
    });
  });
});

describe("encodings", () => {
  const samples = [
    [
      "gb18030",
      "tLrM7MC0wcujrLmr1LDA77XEu6i2vL+qwcuho8jLw8fU2rr+sd/JorK9o6y6otfTw8fU2rLdtdjJz7fFt+fz3aGjwM/Iy8PH1/jU2rOk0s7Jz8HEzOyjrMu118W5/ciltcTKwsfpoaPV4tf5s8fK0LXEw7/Su7j2vcfC5La809DX1Ly6tcS5ysrCoaM=",
      "春天来了，公园里的花都开",
    ],
    [
      "big5",
      "rEuk0ajTpEahQaS9tum4zKq6quGzo7Z9pEahQ6RIrcymYrTyw+S0sqhCoUGrxKRsrcymYq/zpmGkV6nxrbe65aFDptGkSK3Mp6SmYqr4tMikV7LhpNGhQbuhtdu5TKVoqrqoxrGhoUOzb655q7Clq6q6qEOkQK3TqKS4qLOjprOm26R2qrqsR6jGoUM=",
      "春天來了，公園裡的花都開",
    ],
    [
      "shift_jis",
      "j3SCqpeIgsSBQYz2iYCCzInUgqqCt4LXgsSN54KrgtyCtYK9gUKQbIFYgs2MzoLMgtmCxoLogvCOVZXggrWBQY5xgseC4IK9gr+CzZGQgsyP44LFkfqC8JdngrCCxIKigtyCt4FCgqiUTorxguiCzYN4g5ODYILJjcCCwYLEkMyCzJhigvCCtYLEgqKC3IK3gUI=",
      "春が来て、公園の花がすべ",
    ],
    [
      "euc-jp",
      "vdWkrM3opMahorj4seCkzrLWpKykuaTZpMa66aStpN6kt6S/oaO/zaG5pM+40KTOpNukyKTqpPK7tsripLehorvSpMmk4qS/pMGkz8HwpM6+5aTHwvyk8s3IpLKkxqSkpN6kuaGjpKrHr7TzpOqkz6XZpfOlwaTLusKkw6TGwM6kzs/DpPKkt6TGpKSk3qS5oaM=",
      "春が来て、公園の花がすべ",
    ],
    [
      "euc-kr",
      "ur3AzCC/1LDtILD4v/jAxyCyycDMILjwtc4gx8e++r3AtM+02S4gu+e297XpwLogyKO8/bChuKYgu+rDpcfPsO0gvsbAzLXpwLogx66557+hvK0gv6zAuyCzr7iztM+02S4gs+vAzrXpwLoguqXEob+hIL7JvsYgv76zryDAzL7fseK4piCzqrSvtM+02S4=",
      "봄이 왔고 공원의 꽃이",
    ],
    [
      "windows-1251",
      "z/Do+OvgIOLl8e3gLCDoIOIg7+Dw6uUg8ODx9uLl6+gg4vHlIPbi5fL7LiDL/uToIOPz6//+8iDzIO7n5fDgLCDgIOTl8ugg5+Dv8/Hq4P7yIOLu5+Tz+O379SDn7OXl4iDt4CDy8ODi5S4g0fLg8Ojq6CDx6OT/8iDt4CDx6uDs5enq4PUg6CDi8e/u7Ojt4P7yIO/w7vjr7uUu",
      "Пришла весна",
    ],
    [
      "koi8-r",
      "8NLJ28zBINfF087BLCDJINcg0MHSy8Ug0sHTw9fFzMkg19PFIMPXxdTZLiDswMTJIMfVzNHA1CDVIM/axdLBLCDBIMTF1Mkg2sHQ1dPLwcDUINfP2sTV287ZyCDazcXF1yDOwSDU0sHXxS4g89TB0snLySDTycTR1CDOwSDTy8HNxcrLwcggySDX09DPzcnOwcDUINDSz9vMz8Uu",
      "Пришла весна",
    ],
    [
      "windows-1252",
      "TGUgcHJpbnRlbXBzIGVzdCBhcnJpdukgZXQgdG91dGVzIGxlcyBmbGV1cnMgZHUgcGFyYyBvbnQg6WNsb3MuIExlcyBnZW5zIHNlIHByb23obmVudCBwcuhzIGR1IGxhYywgbGVzIGVuZmFudHMgam91ZW50IOAgY/R06TsgY5Jlc3QgZOlq4CBskul06SwgbmHvZiBldCBs6Wdlci4=",
      "Le printemps",
    ],
    [
      "windows-1253",
      "ufHo5SDnINzt7+nu5yDq4ekg/OvhIPThIOvv9evv/eTp4SDz9O8g8Nzx6u8g3O3o6fPh7S4gz+kg3O3o8fnw7+kg8OXx8OH07/3tIOTf8OvhIPP05yDr3+zt5yDq4ekg9OEg8OHp5OncIPDl9O/97SD34fH04eX07/3yLg==",
      "Ήρθε η άνοιξ",
    ],
    [
      "windows-1250",
      "TmFkZXN6s2Egd2lvc25hIGkgdyBwYXJrdSB6YWt3aXSzeSB3c3p5c3RraWUga3dpYXR5LiBMdWR6aWUgc3BhY2VydWq5IG5hZCBqZXppb3JlbSwgYSBkemllY2kgcHVzemN6YWq5IGxhdGF3Y2UgbmEgs7ljZTsgv/OzdGUgnHdpZWO5Y2Ugc7Nv8WNlLg==",
      "Nadeszła wio",
    ],
  ] as const;
  test.each(samples)("%s is found without being declared, and when another is declared", (encoding, base64, begins) => {
    const bytes = Buffer.from(base64, "base64");
    expect(detectEncoding(bytes)).toBe(encoding);
    expect(decodeBytes(bytes, "utf-8").text.startsWith(begins)).toBe(true);
    expect(decodeBytes(bytes, "no-such-encoding").encoding).toBe(encoding);
  });

  test("UTF-8 declared as Latin-1 is UTF-8; GBK declared as Big5 is GBK; a right declaration counts", () => {
    expect(decodeBytes(Buffer.from("Über ‘Größe’"), "iso-8859-1")).toEqual({
      text: "Über ‘Größe’",
      encoding: "utf-8",
      replaced: 0,
    });
    expect(decodeBytes(Buffer.from(samples[0][1], "base64"), "big5").encoding).toBe("gb18030");
    expect(decodeBytes(Buffer.from([0x63, 0x61, 0x66, 0xe9]), "iso-8859-1").text).toBe("café");
    expect(decodeBytes(Buffer.from([0x93, 0x61, 0x94, 0x20, 0x96, 0xe9]), "windows-1252").text).toBe("“a” –é");
  });

  test("a GBK page with its encoding in a meta element", () => {
    const body = Buffer.from(samples[0][1], "base64");
    const bytes = Buffer.concat([
      Buffer.from('<html><head><meta http-equiv="Content-Type" content="text/html; charset=gb2312"></head><body><p>'),
      body,
      Buffer.from("</p></body></html>"),
    ]);
    const { text, encoding } = decodePage(bytes);
    expect(encoding).toBe("gb18030");
    expect(extractPage(text).text.startsWith("春天来了，公园里的花都开了。")).toBe(true);
  });

  test("UTF-16 with and without a byte order mark", () => {
    const text = "Elephants, 大象, and more of them\n";
    const little = Buffer.from(text.repeat(5), "utf16le");
    expect(decodeBytes(Buffer.concat([Buffer.from([0xff, 0xfe]), little])).text).toBe(text.repeat(5));
    expect(decodeBytes(little)).toMatchObject({ encoding: "utf-16le", text: text.repeat(5) });
    expect(decodeBytes(Buffer.from(little).swap16())).toMatchObject({ encoding: "utf-16be", text: text.repeat(5) });
  });

  test("UTF-16 without a byte order mark is found where no byte of it is zero, too", () => {
    for (const text of [
      "这是一个测试文件。中国的首都是北京，人口众多，历史悠久。\n我们在这里写一些普通的中文，用来检查编码。\n",
      "這是一個測試檔案。中國的首都是北京，人口眾多，歷史悠久。",
      "你好，世界！今天天气不错。",
    ]) {
      const little = Buffer.from(text, "utf16le");
      expect(decodeBytes(little)).toMatchObject({ encoding: "utf-16le", text });
      expect(decodeBytes(Buffer.from(little).swap16())).toMatchObject({ encoding: "utf-16be", text });
    }
  });

  test("a page whose first letter beyond ASCII comes after a hundred kilobytes of script", () => {
    const body = Buffer.from(samples[0][1], "base64");
    for (const size of [20_000, 50_000, 100_000, 300_000]) {
      const script = `<html><head><meta charset="gbk"><script>${"var a = 1;\n".repeat(size / 11)}</script></head><body><p>`;
      const { text, encoding, replaced } = decodePage(Buffer.concat([Buffer.from(script), body]));
      expect({ encoding, replaced }, `${size}`).toEqual({ encoding: "gb18030", replaced: 0 });
      expect(text).toContain("春天来了，公园里的花都开了。");
    }
  });

  test("a few broken places in UTF-8 are marked; bytes that are no text are refused", () => {
    const broken = Buffer.concat([
      Buffer.from("长长的一段中文文字。".repeat(10)),
      Buffer.from([0xff]),
      Buffer.from("完"),
    ]);
    expect(decodeBytes(broken)).toMatchObject({ encoding: "utf-8", replaced: 1 });
    const noise = Uint8Array.from({ length: 4096 }, (_, i) => (i * 7919 + ((i * i) >> 3)) & 255);
    expect(() => decodeBytes(noise)).toThrow(ReadError);
  });
});
