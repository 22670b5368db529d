// The main text of pages in memory. What was found goes to a file, once, before anything is timed.
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { extractPage } from "../../src/data/extract/html.ts";
import { readPages } from "../pages.ts";
import type { Prepare } from "../worker.ts";

export interface ExtractParameters {
  readonly folder: string;
  /** Where each side writes what it found, as `howdah.json` and `trafilatura.json`: texts by page. */
  readonly out: string;
}

export const prepare: Prepare<ExtractParameters> = ({ parameters: { folder, out } }) => {
  const pages = readPages(folder);
  const found = Object.fromEntries(pages.map(({ id, html }) => [id, extractPage(html).text]));
  writeFileSync(join(out, "howdah.json"), JSON.stringify(found));
  const characters = pages.reduce((sum, { html }) => sum + [...html].length, 0);
  return {
    about: "text, title, date, author, language",
    async step() {
      for (const { html } of pages) extractPage(html);
      return { output: { pages: pages.length, characters } };
    },
  };
};
