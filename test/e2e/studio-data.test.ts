// biome-ignore-all lint/performance/useDomNodeTextContent: Playwright's innerText is what a person sees, unlike textContent
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import type { Browser, BrowserContextOptions, Page } from "playwright-core";
import { build } from "vite";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { chooseBackend, useBackend } from "../../src/engine/index.ts";
import { createServer, type Server } from "../../src/serve/index.ts";
import { chromiumPath, launchChromium } from "../support/chromium.ts";
import { buildSampleCorpus } from "../support/sample-corpus.ts";
import { ScriptedRegistry } from "../support/scripted-model.ts";

const studio = fileURLToPath(new URL("../../studio", import.meta.url));

/** The page Data as it is built from the sources, in a real browser, over corpora that the job made. */
describe.skipIf(chromiumPath === undefined)("the Studio's page Data in Chromium", { timeout: 120_000 }, () => {
  const folder = mkdtempSync(join(tmpdir(), "howdah-browser-data-"));
  const dataDir = join(folder, "data");
  let server: Server;
  let browser: Browser;
  /** Requests to anywhere else, script errors, refusals of the content security policy: of all pages of all tests. */
  const wrong: string[] = [];

  beforeAll(async () => {
    useBackend(chooseBackend("auto", () => {}));
    const outDir = join(folder, "dist");
    await build({ root: studio, configFile: join(studio, "vite.config.ts"), logLevel: "error", build: { outDir } });
    mkdirSync(dataDir);
    await buildSampleCorpus(dataDir, "second", "dedup: { near: false }\n");
    await buildSampleCorpus(dataDir, "first");
    server = await createServer({
      models: new ScriptedRegistry(),
      runsDir: join(folder, "runs"),
      dataDir,
      studioDir: outDir,
    });
    browser = await launchChromium();
  });
  afterAll(async () => {
    await browser?.close();
    await server?.close();
    rmSync(folder, { recursive: true, force: true });
  });

  async function visit(hash: string, options: BrowserContextOptions = {}): Promise<Page> {
    const context = await browser.newContext({ viewport: { width: 1200, height: 800 }, locale: "en-US", ...options });
    context.setDefaultTimeout(10_000);
    const page = await context.newPage();
    page.on("request", (request) => {
      if (!request.url().startsWith(`${server.url}/`)) wrong.push(request.url());
    });
    page.on("pageerror", (error) => wrong.push(String(error.stack)));
    page.on("console", (message) => {
      if (["error", "warning"].includes(message.type())) wrong.push(message.text());
    });
    await page.goto(`${server.url}/${hash}`);
    await page.waitForSelector("main .corpus", { timeout: 10_000 });
    return page;
  }
  const results = (page: Page) => page.locator(".results li");
  const reader = (page: Page) => page.locator(".reader");

  test("corpora are listed, and a new one appears by itself", async () => {
    const page = await visit("#/data");
    await page.getByRole("heading", { name: "first" }).waitFor();
    expect(await page.locator(".run-list a").allInnerTexts()).toHaveLength(2);
    mkdirSync(join(dataDir, "begun", "work"), { recursive: true });
    writeFileSync(join(dataDir, "begun", "recipe.yaml"), "name: begun\n");
    await page.locator(".run-list").getByText("unfinished").waitFor();
    await page.locator(".run-list").getByText("begun").click();
    await page.getByText("There is no report yet").waitFor();
    rmSync(join(dataDir, "begun"), { recursive: true });
    await expect.poll(() => page.locator(".run-list a").count(), { timeout: 10_000 }).toBe(2);
    await page.context().close();
  });

  test("an overview leads from what a filter took to those documents and why each went", async () => {
    const page = await visit("#/data/first");
    const facts = await page.locator(".summary").innerText();
    expect(facts).toMatch(/Documents\s+38/);
    expect(await page.locator(".bars").first().innerText()).toMatch(/Read\s+41\s+100%[\s\S]*After deduplication\s+38/);
    await page.getByRole("heading", { name: "Mixture" }).waitFor();
    await page.locator(".bars", { hasText: "What the filters took" }).getByRole("link").first().click();
    await page.getByText("1 found").waitFor();
    expect(await page.getByRole("combobox", { name: "Status" }).inputValue()).toBe("");
    await results(page).getByRole("button").click();
    await reader(page).getByRole("heading", { name: "Why it was dropped" }).waitFor();
    expect(await reader(page).locator(".why").innerText()).toMatch(/Measured [\d.]+; the threshold is [\d.]+\./);
    expect(await reader(page).locator(".reader-text").innerText()).toBe("Buy now, quick lighthouse lamps!");
    // What is looked at is in the address.
    const address = page.url();
    const again = await visit(`#${address.split("#")[1]}`);
    await again.getByRole("heading", { name: "Why it was dropped" }).waitFor();
    await again.context().close();
    await page.context().close();
  });

  test("a search finds in any case, marks what was found, and nothing in a document can run", async () => {
    const page = await visit("#/data/first/documents");
    await page.getByRole("searchbox", { name: "Search" }).fill("LIGHTHOUSE");
    await page.getByText("2 found").waitFor();
    expect(await page.locator(".results mark").allInnerTexts()).toEqual(["Lighthouse", "lighthouse"]);
    await page.getByRole("combobox", { name: "Status" }).selectOption({ label: "Only kept" });
    await page.getByText("1 found").waitFor();
    await results(page).getByRole("button").click();
    await reader(page).locator("mark").waitFor();
    expect(await reader(page).innerText()).toContain("<script>window.hacked = true</script>");
    expect(await page.evaluate("window.hacked")).toBeUndefined();
    await page.getByRole("searchbox", { name: "Search" }).fill("no such words");
    await page.getByText("Nothing found.").waitFor();
    await page.context().close();
  });

  test("more documents come when they are asked for", async () => {
    const page = await visit("#/data/first/documents?status=kept");
    await expect.poll(() => results(page).count()).toBe(20);
    await page.getByRole("button", { name: "Show more" }).click();
    await page.getByText("38 found").waitFor();
    expect(await results(page).count()).toBe(38);
    await page.context().close();
  });

  test("duplicates are clusters; a member leads to the one that stays", async () => {
    const page = await visit("#/data/first/duplicates");
    await page.getByText("1 documents were equal to another, 1 nearly.").waitFor();
    const clusters = page.locator(".cluster");
    expect(await clusters.count()).toBe(2);
    await clusters.first().getByRole("button").nth(1).click();
    await reader(page).getByRole("heading", { name: "Why it is not in the corpus" }).waitFor();
    await reader(page).locator(".why button").click();
    await reader(page).getByText("Left out because they are the same: 1").waitFor();
    await page.goBack();
    await page.getByRole("tab", { name: "Duplicates", selected: true }).waitFor();
    await page.context().close();
  });

  test("two corpora are shown side by side", async () => {
    const page = await visit("#/data/first");
    await page.getByRole("tab", { name: "Compare" }).click();
    const sizes = page.locator("section", { hasText: "Sizes" });
    await sizes.waitFor();
    expect(await sizes.innerText()).toMatch(/Similar documents\s+1\s+0\s+−1/);
    expect(await page.locator("section", { hasText: "Settings that differ" }).innerText()).toContain("dedup.near");
    await page.context().close();
  });

  test("at 360 pixels nothing is wider than the screen, in both languages, and a document takes the list's place", async () => {
    for (const locale of ["en-US", "zh-CN"]) {
      const page = await visit("#/data/first", { viewport: { width: 360, height: 740 }, locale });
      await page.locator(".bars").first().waitFor();
      const width = () => page.evaluate("document.documentElement.scrollWidth");
      const inner = () =>
        page.evaluate(
          "(({ scrollWidth, clientWidth }) => scrollWidth - clientWidth)(document.querySelector('.corpus'))",
        );
      for (const tab of await page.getByRole("tab").all()) {
        await tab.click();
        await page.waitForTimeout(100);
        expect(await width()).toBe(360);
        expect(await inner()).toBe(0);
      }
      // The tab that an address chooses can be seen, though the row is wider than the screen.
      await page.goto(`${server.url}/#/data/first/recipe`);
      await page.reload();
      const right = () =>
        page.evaluate("document.querySelector('[role=tab][aria-selected=true]').getBoundingClientRect().right");
      await expect.poll(right).toBeLessThanOrEqual(360);
      await page.getByRole("tab").nth(1).click();
      await results(page).getByRole("button").first().click();
      await reader(page).locator(".reader-text").waitFor();
      expect(await results(page).first().isVisible()).toBe(false);
      expect(await width()).toBe(360);
      await reader(page)
        .getByRole("button", { name: locale === "zh-CN" ? "返回列表" : "Back to the list" })
        .click();
      await results(page).first().waitFor();
      // Going back closes a document, too.
      await results(page).getByRole("button").nth(2).click();
      await reader(page).locator(".reader-text").waitFor();
      await page.goBack();
      await results(page).first().waitFor();
      await page.context().close();
    }
  });

  test("no page asked for anything elsewhere, broke the policy or threw", () => {
    expect(wrong).toEqual([]);
  });
});
