// biome-ignore-all lint/performance/useDomNodeTextContent: Playwright's innerText is what a person sees, unlike textContent
import { appendFileSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import type { Browser, BrowserContextOptions, Page } from "playwright-core";
import { build } from "vite";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { acquireLock } from "../../src/runs/lock.ts";
import { createServer, type Server } from "../../src/serve/index.ts";
import { chromiumPath, launchChromium } from "../support/chromium.ts";
import { lines, sampleEvents, sampleReport, writeRun } from "../support/sample-run.ts";
import { ScriptedRegistry, scriptedModel, until } from "../support/scripted-model.ts";

const studio = fileURLToPath(new URL("../../studio", import.meta.url));

/** The Studio as it is built from the sources, in a real browser, with a scripted model behind it. */
describe.skipIf(chromiumPath === undefined)("the Studio in Chromium", { timeout: 120_000 }, () => {
  const folder = mkdtempSync(join(tmpdir(), "howdah-browser-"));
  const runsDir = join(folder, "runs");
  const lark = "It is the lark, my lord, 东方 and not the moon.";
  const sft = scriptedModel("sft", ["I know not what the matter is.", "Second words."], { delayMs: 1 });
  const ppo = { ...scriptedModel("ppo", [lark, "Other words."], { delayMs: 1 }), speakers: ["ROMEO", "JULIET"] };
  const slow = scriptedModel("slow", ["word ".repeat(500)], { delayMs: 15 });
  const models = new ScriptedRegistry(slow, sft, ppo);
  let server: Server;
  let browser: Browser;
  let runFolder: string;
  let lock: { release(): void };
  /** Requests to anywhere else, script errors, refusals of the content security policy: of all pages of all tests. */
  const wrong: string[] = [];

  beforeAll(async () => {
    const outDir = join(folder, "dist");
    await build({ root: studio, configFile: join(studio, "vite.config.ts"), logLevel: "error", build: { outDir } });
    runFolder = writeRun(runsDir, "shakespeare", sampleEvents(Date.now()), { "report.md": sampleReport });
    lock = acquireLock(join(runFolder, "run.lock"), "the run");
    server = await createServer({ models, runsDir, studioDir: outDir });
    browser = await launchChromium();
  });
  afterAll(async () => {
    await browser?.close();
    await server?.close();
    lock?.release();
    rmSync(folder, { recursive: true, force: true });
  });

  async function visit(hash: string, options: BrowserContextOptions = {}): Promise<Page> {
    const context = await browser.newContext({ viewport: { width: 1200, height: 800 }, locale: "en-US", ...options });
    const page = await context.newPage();
    page.on("request", (request) => {
      if (!request.url().startsWith(`${server.url}/`) && !/^(data|blob):/.test(request.url()))
        wrong.push(request.url());
    });
    page.on("pageerror", (error) => wrong.push(String(error.stack)));
    page.on("console", (message) => {
      if (["error", "warning"].includes(message.type())) wrong.push(message.text());
    });
    await page.goto(`${server.url}/${hash}`);
    await page.waitForSelector("main");
    return page;
  }
  const say = async (page: Page, words: string) => {
    await page.getByRole("textbox", { name: "Message" }).fill(words);
    await page.keyboard.press("Enter");
  };

  test("a run is shown with its stages, progress and curves, and new events appear by themselves", async () => {
    const page = await visit("");
    await page.getByRole("heading", { name: "shakespeare" }).waitFor();
    const stages = page.getByRole("list", { name: "Stages" }).getByRole("listitem");
    await expect.poll(() => stages.allInnerTexts()).toHaveLength(6);
    await page.getByText("Report", { exact: true }).first().waitFor();
    const texts = await stages.allInnerTexts();
    expect(texts[1]).toMatch(/Pre-training\s+finished · 2m 57s/);
    expect(texts[4]).toMatch(/PPO\s+running · \d/);
    expect(texts[5]).toMatch(/Report\s+waiting/); // known from the recipe
    expect(await page.locator(".progress").innerText()).toMatch(/40%\s+24 \/ 60 steps\s+0.71 steps\/s\s+51s left/);
    await page
      .getByRole("img", { name: /^Reward: / })
      .locator("canvas")
      .waitFor();

    const values = { "objective/scores": 9.25 };
    const progress = { t: Date.now(), type: "progress", stage: "ppo", done: 30, total: 60, unit: "steps" } as const;
    appendFileSync(
      join(runFolder, "events.jsonl"),
      lines([
        { t: Date.now(), type: "metrics", stage: "ppo", step: 25, values },
        { ...progress, rate: 0.7, secondsLeft: 43 },
      ]),
    );
    await page.getByRole("img", { name: "Reward: 9.25" }).waitFor();
    await page.getByText("50%").waitFor();

    await stages.nth(1).getByRole("button").click();
    await page.getByText("1 not finite").waitFor(); // the NaN of the gradient norm
    expect(await page.locator(".chart", { hasText: "Loss" }).innerText()).toMatch(
      /training\s*3\.\d+\s+held out\s*3\.\d+/,
    );
    expect(await page.locator(".summary").innerText()).toContain("5,012,736");

    await page.getByRole("tab", { name: "Samples" }).click();
    await page.getByRole("slider", { name: "Samples" }).fill("0");
    expect(await page.locator(".sample").innerText()).toContain("e th s,aonr");
    await page.context().close();
  });

  test("a report is rendered, and nothing in it can run", async () => {
    const page = await visit("#/runs/shakespeare");
    await page.getByRole("tab", { name: "Report" }).click();
    const report = page.locator(".markdown");
    await report.getByRole("heading", { name: "Measurements" }).waitFor();
    expect(await report.locator("td").allInnerTexts()).toContain("2.18");
    expect(await report.locator("ol > li > ul > li").count()).toBe(2);
    expect(await report.innerText()).toContain("<script>window.hacked = true</script>");
    expect(await report.locator("a").evaluateAll((links) => links.map((link) => link.getAttribute("href")))).toEqual([
      "https://example.org/text",
    ]);
    expect(await page.evaluate("window.hacked")).toBeUndefined();
    await page.context().close();
  });

  test("a message is answered in a stream, and the conversation outlives the page", async () => {
    const page = await visit("#/chat/ppo");
    await page.getByLabel("You speak as").fill("ROMEO");
    await page.getByLabel("Reply as").fill("JULIET");
    await say(page, "What light is this?");
    await page.locator(".reply.done").waitFor();
    expect(await page.locator(".reply-text").innerText()).toBe(lark);
    expect(ppo.seen.chats.at(-1)).toEqual([
      { role: "user", name: "ROMEO", content: "What light is this?" },
      { role: "assistant", name: "JULIET", content: "" },
    ]);
    await page.reload();
    await page.getByText(lark).waitFor();
    await say(page, "And then?");
    await page.locator(".reply.done").nth(1).waitFor();
    expect(ppo.seen.chats.at(-1)?.map((message) => message.content)).toEqual([
      "What light is this?",
      lark,
      "And then?",
      "",
    ]);
    await page.getByRole("button", { name: "Clear the conversation" }).click();
    await page.getByRole("button", { name: "Clear everything?" }).click();
    await page.getByRole("heading", { name: "Say something" }).waitFor();
    await page.context().close();
  });

  test("settings reach the model; Shift+Enter and an input method's Enter do not send", async () => {
    const page = await visit("#/chat/ppo");
    await page.getByRole("button", { name: "Settings" }).click();
    await page.getByRole("slider", { name: "Temperature" }).fill("0.5");
    await page.getByRole("slider", { name: "Top-k" }).fill("40");
    await page.getByRole("slider", { name: "Longest reply" }).fill("7");
    await page.getByRole("spinbutton", { name: "Seed" }).fill("0");
    const before = ppo.seen.requests.length;
    const box = page.getByRole("textbox", { name: "Message" });
    await box.fill("你好");
    await box.press("Shift+Enter");
    await box.dispatchEvent("keydown", { key: "Enter", isComposing: true });
    expect(await box.inputValue()).toBe("你好\n");
    expect(ppo.seen.requests).toHaveLength(before);
    await box.press("Enter");
    await page.locator(".reply.done").waitFor();
    expect(ppo.seen.requests.at(-1)).toMatchObject({ temperature: 0.5, topK: 40, topP: 0.95, maxTokens: 7, seed: 0 });
    expect(await page.locator(".reply-text").innerText()).toBe("It is t");
    await page.getByText("the longest reply was reached").waitFor();
    await page.getByRole("button", { name: "Another reply" }).click();
    await page.getByText("Other w").waitFor(); // the next seed
    await page.context().close();
  });

  test("Esc stops a reply, keeps what was written and frees the model", async () => {
    const page = await visit("#/chat/slow");
    await say(page, "Go on");
    await page.getByText("word word").waitFor();
    expect(slow.seen.running).toBe(1);
    await page.keyboard.press("Escape");
    await page.locator(".reply.stopped").waitFor();
    await until(() => slow.seen.running === 0);
    expect(await page.locator(".reply-text").innerText()).toContain("word word");
    await page.context().close();
  });

  test("two models answer side by side, and what people prefer is kept as votes", async () => {
    const page = await visit("#/chat/ppo");
    await page.getByRole("button", { name: "Two side by side" }).click();
    await page.getByRole("combobox", { name: "Second model" }).selectOption("sft");
    await say(page, "Speak.");
    await expect.poll(() => page.locator(".reply.done").count()).toBe(2);
    await page.getByRole("button", { name: "This one is better" }).nth(1).click();
    await page.getByRole("button", { name: "Preferred" }).waitFor();
    await page.getByRole("button", { name: "Bad reply" }).first().click();
    const votes = async () => ((await (await fetch(`${server.url}/api/votes`)).json()) as { votes: object[] }).votes;
    await expect.poll(votes, { timeout: 60_000 }).toHaveLength(2);
    const prompt = [{ role: "user", content: "Speak." }];
    expect(await votes()).toEqual(
      expect.arrayContaining([
        expect.objectContaining({ kind: "thumb", prompt, model: "ppo", reply: lark, value: -1 }),
        expect.objectContaining({
          kind: "preference",
          prompt,
          chosen: { model: "sft", reply: "I know not what the matter is." },
          rejected: { model: "ppo", reply: lark },
        }),
      ]),
    );
    // The conversation goes on from the better reply.
    await say(page, "More.");
    await expect.poll(() => page.locator(".reply.done").count()).toBe(4);
    expect(ppo.seen.chats.at(-1)?.[1]?.content).toBe("I know not what the matter is.");
    // A second press takes a vote back.
    await page.getByRole("button", { name: "Bad reply" }).first().click();
    await expect.poll(votes).toHaveLength(1);
    await page.context().close();
  });

  test("a model that appears while the page is open is announced and can be chosen", async () => {
    const page = await visit("#/chat/ppo");
    await page.getByRole("combobox", { name: "Model" }).waitFor();
    models.add(scriptedModel("fresh", ["Fresh."]));
    await page.getByText("A new model is here: fresh").waitFor();
    await page.getByRole("button", { name: "Use it" }).click();
    expect(await page.getByRole("combobox", { name: "Model" }).inputValue()).toBe("fresh");
    await page.context().close();
  });

  test("it speaks the browser's language, and the one that is chosen after that", async () => {
    const page = await visit("", { locale: "zh-CN" });
    await page.getByRole("link", { name: "训练" }).waitFor();
    expect(await page.locator("html").getAttribute("lang")).toBe("zh-CN");
    await page.getByText("预训练").waitFor();
    await page.getByRole("button", { name: "Switch to English" }).click();
    await page.getByText("Pre-training").waitFor();
    await page.reload();
    await page.getByText("Pre-training").waitFor();
    await page.context().close();
  });

  test("it is as light or dark as the system, or as chosen", async () => {
    const page = await visit("", { colorScheme: "dark" });
    const brightness = () =>
      page.evaluate(() => {
        const body = (globalThis as unknown as { document: { body: object } }).document.body;
        const style = (
          globalThis as unknown as { getComputedStyle(e: object): { backgroundColor: string } }
        ).getComputedStyle(body);
        return Number(/\d+/.exec(style.backgroundColor)?.[0]);
      });
    expect(await brightness()).toBeLessThan(60);
    await page.getByRole("button", { name: "Theme: as the system" }).click();
    expect(await brightness()).toBeGreaterThan(200);
    await page.reload();
    expect(await brightness()).toBeGreaterThan(200);
    await page.context().close();
  });

  test("at 360 pixels nothing is wider than the screen, in both languages", async () => {
    for (const locale of ["en-US", "zh-CN"]) {
      const page = await visit("", { viewport: { width: 360, height: 740 }, locale });
      await page.locator(".chart canvas").first().waitFor();
      const width = () => page.evaluate("document.documentElement.scrollWidth");
      for (const tab of await page.getByRole("tab").all()) {
        await tab.click();
        expect(await width()).toBe(360);
      }
      await page.goto(`${server.url}/#/chat/ppo`);
      await page.locator(".chat-bar .tools button").first().click(); // side by side
      await page.locator("textarea").fill("a".repeat(300));
      await page.keyboard.press("Enter");
      await expect.poll(() => page.locator(".reply.done").count()).toBe(2);
      await page.locator(".chat-bar .tools button").nth(1).click(); // settings
      expect(await width()).toBe(360);
      await page.context().close();
    }
  });

  test("it can be used by keyboard alone", async () => {
    const page = await visit("");
    await page.locator(".chart canvas").first().waitFor();
    const focused = () => page.evaluate("document.activeElement.textContent || document.activeElement.ariaLabel");
    await page.keyboard.press("Tab");
    expect(await focused()).toBe("Skip to the content");
    await page.keyboard.press("Enter");
    expect(await page.evaluate("document.activeElement.id")).toBe("main");
    await page.getByRole("tab", { name: "Curves" }).focus();
    await page.keyboard.press("ArrowRight");
    expect(await focused()).toBe("Samples");
    expect(await page.getByRole("tab", { name: "Samples" }).getAttribute("aria-selected")).toBe("true");
    await page.keyboard.press("End");
    expect(await focused()).toBe("Log");
    await page.getByText("KL 6.2 is above its target").waitFor();
    // Every control that can be reached has a name.
    const nameless = await page.evaluate(
      "[...document.querySelectorAll('button, a, input, select, textarea')].filter((e) => !(e.ariaLabel || e.textContent.trim() || e.labels?.length)).map((e) => e.outerHTML)",
    );
    expect(nameless).toEqual([]);
    await page.context().close();
  });

  test("a server with a key asks for it and then works", async () => {
    const guarded = await createServer({ models, runsDir, studioDir: join(folder, "dist"), apiKey: "a-long-key" });
    const page = await (await browser.newContext({ locale: "en-US" })).newPage();
    await page.goto(guarded.url);
    await page.getByLabel("API key").fill("a-long-key");
    await page.getByRole("button", { name: "Use the key" }).click();
    await page.getByRole("heading", { name: "shakespeare" }).waitFor();
    await page.context().close();
    await guarded.close();
  });

  test("a server that goes away is said so, and when it is back the page goes on by itself", async () => {
    const options = { models: new ScriptedRegistry(), runsDir, studioDir: join(folder, "dist") };
    const first = await createServer(options);
    const page = await (await browser.newContext({ locale: "en-US" })).newPage();
    await page.goto(`${first.url}/#/chat`);
    await page.getByText("No model to talk to yet").waitFor();
    await first.close();
    await page.getByText("The server does not answer").waitFor();
    const again = await createServer({ ...options, models, port: Number(new URL(first.url).port) });
    await page.getByRole("heading", { name: "Say something" }).waitFor();
    await page.getByText("The server does not answer").waitFor({ state: "hidden" });
    await page.context().close();
    await again.close();
  });

  test("no page asked for anything elsewhere, broke the policy or threw", () => {
    expect(wrong).toEqual([]);
  });
});
