import preact from "@preact/preset-vite";
import { defineConfig } from "vite";

export default defineConfig({
  root: import.meta.dirname,
  base: "/",
  plugins: [preact({ devToolsEnabled: false, prefreshEnabled: true })],
  build: {
    outDir: "dist",
    emptyOutDir: true,
    // light-dark() and nesting stay as they are written.
    target: ["chrome123", "edge123", "firefox121", "safari17.5"],
    // The policy of the server allows no inline code, and a data: font or script would be one.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
  },
  // `npx vite studio` beside a running `howdah serve`: pages from here, data from there.
  server: {
    host: "127.0.0.1",
    proxy: Object.fromEntries(
      ["/api", "/v1"].map((path) => [
        path,
        {
          target: process.env.HOWDAH_URL ?? "http://127.0.0.1:8080",
          changeOrigin: true,
          // To the server the page comes from itself, which is what its origin check wants.
          headers: { origin: process.env.HOWDAH_URL ?? "http://127.0.0.1:8080" },
        },
      ]),
    ),
  },
});
