import { afterEach, beforeEach, expect } from "vitest";
import { liveTensors } from "../../src/tensor/tensor.ts";

/** Every test of the calling file must release the tensors it makes. */
export function checkLeaks(): void {
  let before = 0;
  beforeEach(() => {
    before = liveTensors();
  });
  afterEach(() => {
    expect(liveTensors(), "tensors alive after the test").toBe(before);
  });
}
