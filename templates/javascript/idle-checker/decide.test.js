import assert from "node:assert/strict";
import test from "node:test";
import { limitMs, remainingMs } from "../src/decide.js";

const MINUTE = 60_000;

test("accelerators are given back earlier", () => {
  assert.equal(limitMs({}, false, null), 60 * MINUTE);
  assert.equal(limitMs({}, true, null), 20 * MINUTE);
  assert.equal(limitMs({ accelerator_minutes: 5 }, true, null), 5 * MINUTE);
});

test("the owner's policy may be stricter, or switch it off", () => {
  assert.equal(limitMs({}, false, 10 * MINUTE), 10 * MINUTE);
  assert.equal(limitMs({}, true, 0), null);
});

test("time counts from the last use or the end of the grace", () => {
  assert.equal(remainingMs(100, 0, null, null, 60), -40);
  assert.equal(remainingMs(100, 0, 70, null, 60), 30);
  assert.equal(remainingMs(100, 0, 70, 90, 60), 50);
});
