import { describe, expect, test } from "vitest";
import { applyEvent, newRunState } from "../../src/runs/state.ts";
import {
  followed,
  messagesFor,
  type Reply,
  requestBody,
  revive,
  type Turn,
} from "../../studio/src/chat/conversation.ts";
import { curvesOf, isNoisy, type Point, smooth, thin } from "../../studio/src/runs/curves.ts";

const stageWith = (...values: Record<string, number>[]) => {
  const state = newRunState();
  for (const [i, value] of values.entries()) {
    applyEvent(state, { t: i, type: "metrics", stage: "s", step: i + 1, values: value });
  }
  const stage = state.stages[0];
  if (stage === undefined) throw new Error("no stage");
  return stage;
};

describe("curves", () => {
  test("held-out values lie over their own curve, and a name that only looks like it has a curve of its own", () => {
    const stage = stageWith({ loss: 3, heldout_loss: 4, "val/ratio": 1, learning_rate: 0.1, eval_accuracy: 0.5 });
    const curves = curvesOf(stage).map(({ name, heldOut }) => [name, heldOut]);
    expect(curves).toEqual([
      ["loss", [[1, 4]]],
      ["eval_accuracy", undefined],
      ["learning_rate", undefined],
      ["val/ratio", undefined],
    ]);
  });

  test("thinning keeps the mean, the last step, and shows a NaN", () => {
    const points = Array.from({ length: 4000 }, (_, i): Point => [i, i % 2]);
    const few = thin(points, 1000);
    expect(few).toHaveLength(1000);
    expect(few.every(([, value]) => value === 0.5)).toBe(true);
    expect(few.at(-1)?.[0]).toBe(3999);
    expect(thin(points.with(7, [7, Number.NaN]), 1000).filter(([, value]) => Number.isNaN(value))).toHaveLength(1);
    expect(thin(points.slice(0, 9), 1000)).toEqual(points.slice(0, 9));
  });

  test("a falling curve is not noisy, the same curve under noise is", () => {
    const falling = Array.from({ length: 200 }, (_, i): Point => [i, Math.exp(-i / 40)]);
    const shaken = falling.map(([step, value], i): Point => [step, value + 0.1 * Math.sin(i * 97)]);
    expect(isNoisy(falling)).toBe(false);
    expect(isNoisy(shaken)).toBe(true);
  });

  test("smoothing leaves a straight line where it is, without lag, and passes over what is not finite", () => {
    const line = Array.from({ length: 300 }, (_, i): Point => [i, 2 * i]);
    for (const [i, value] of smooth(line).entries()) expect(value).toBeCloseTo(2 * i, 9);
    const broken = smooth(line.with(100, [100, Number.POSITIVE_INFINITY]));
    expect(broken.every((value) => value !== null && Number.isFinite(value))).toBe(true);
  });
});

describe("conversations", () => {
  const sampling = { temperature: 1, topP: 1, topK: 0, maxTokens: 9, seed: null };
  const reply = (text: string, more: Partial<Reply> = {}): Reply => {
    return { id: text, model: "m", name: "", text, state: "done", prompt: [], sampling, ...more };
  };
  const turn = (content: string, replies: Reply[], more: Partial<Turn> = {}): Turn => {
    return { id: content, name: "", content, replies, ...more };
  };

  test("what follows is built on the preferred reply, or on the first that says something", () => {
    const both = [reply(""), reply("B"), reply("C")];
    expect(followed(turn("a", both))?.text).toBe("B");
    expect(followed(turn("a", both, { preferred: { index: 2, vote: 1 } }))?.text).toBe("C");
    expect(messagesFor([turn("a", both), turn("b", [reply("")])], "ROMEO", "c", "JULIET")).toEqual([
      { role: "user", content: "a" },
      { role: "assistant", content: "B" },
      { role: "user", content: "b" },
      { role: "user", name: "ROMEO", content: "c" },
      { role: "assistant", name: "JULIET", content: "" },
    ]);
  });

  test("filters that are off are not sent", () => {
    expect(requestBody("m", [], sampling)).not.toHaveProperty("top_k");
    expect(requestBody("m", [], sampling)).not.toHaveProperty("seed");
    expect(requestBody("m", [], { ...sampling, topK: 5, seed: 0 })).toMatchObject({ top_k: 5, seed: 0 });
  });

  test("what is brought back from storage has no reply that is still being written, and nothing broken", () => {
    const writing = reply("half", { state: "writing", thumb: { value: 1, vote: "sent" } });
    const kept = reply("whole", { thumb: { value: -1, vote: 7 } });
    const stored: unknown = JSON.parse(JSON.stringify([turn("a", [writing, kept]), { id: "x" }, null, 7]));
    expect(revive(stored)).toEqual([turn("a", [reply("half", { state: "stopped" }), kept])]);
    expect(revive({})).toEqual([]);
  });
});
