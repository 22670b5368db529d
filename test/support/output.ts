import { afterEach, beforeEach, vi } from "vitest";

/** What a test's commands write to standard output and standard error, from the start of each test on; nothing of it is shown. */
export function captureOutput(): { out: string; err: string } {
  const written = { out: "", err: "" };
  beforeEach(() => {
    written.out = "";
    written.err = "";
    vi.spyOn(process.stdout, "write").mockImplementation((text) => {
      written.out += text;
      return true;
    });
    vi.spyOn(process.stderr, "write").mockImplementation((text) => {
      written.err += text;
      return true;
    });
  });
  afterEach(() => void vi.restoreAllMocks());
  return written;
}
