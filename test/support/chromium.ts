import { existsSync } from "node:fs";
import { type Browser, chromium } from "playwright-core";

const usual = [
  "/usr/bin/chromium",
  "/usr/bin/chromium-browser",
  "/usr/bin/google-chrome",
  "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
  "/Applications/Chromium.app/Contents/MacOS/Chromium",
  "C:\\Program Files\\Google\\Chrome\\Application\\chrome.exe",
];

const named = process.env.HOWDAH_CHROMIUM;

/** A Chromium of this machine, or undefined. HOWDAH_CHROMIUM names the one to use instead. */
export const chromiumPath = (named ? [named] : usual).find((path) => existsSync(path));

if (chromiumPath === undefined) {
  console.warn(
    "No Chromium found: the Studio's browser tests are skipped (Debian: apt install chromium, or set HOWDAH_CHROMIUM).",
  );
}

/** It talks to nobody but the pages it is sent to. */
export function launchChromium(): Promise<Browser> {
  return chromium.launch({
    executablePath: chromiumPath ?? "",
    args: [
      "--headless",
      "--no-sandbox",
      "--disable-gpu",
      "--disable-quic",
      "--no-first-run",
      "--disable-background-networking",
      "--disable-component-update",
      "--disable-sync",
    ],
  });
}
