import assert from "node:assert/strict";
import test from "node:test";
import { Books, choose, order, place } from "../src/decide.js";

/** Two agents with cpu and mem: a busy small one and an idle large one. */
const books = () =>
  new Books(2, {
    architecture: [0, 0],
    schedulable: [true, true],
    capacity: [8, 8, 64, 64],
    occupied: [2, 2, 0, 0],
  });
const kernel = (requested, pinned = null, architecture = 0) => ({ architecture, requested, pinned });

test("important sessions come first, then old ones", () => {
  assert.deepEqual(order([0, 5, 0, 5]), [1, 3, 0, 2]);
});

test("packed fills the small agent, spread the large one", () => {
  assert.deepEqual(choose(books(), kernel([2, 2]), "packed"), { agent: 0 });
  assert.deepEqual(choose(books(), kernel([2, 2]), "spread"), { agent: 1 });
});

test("what is lacking is told", () => {
  assert.deepEqual(choose(books(), kernel([2, 2], null, 1), "packed"), { lack: "no-compatible-agent" });
  assert.deepEqual(choose(books(), kernel([99, 2]), "packed"), { lack: "no-room" });
  assert.deepEqual(choose(books(), kernel([7, 2], 0), "packed"), { lack: "exceeds-capacity" });
});

test("kernels share what is left, and a plan changes nothing", () => {
  const all = books();
  assert.deepEqual(place(all, [kernel([5, 5]), kernel([5, 5])], false, "packed"), { agents: [0, 1] });
  assert.deepEqual(all.occupied, [2, 2, 0, 0]);
  assert.deepEqual(place(all, [kernel([5, 5]), kernel([5, 5])], true, "packed"), { agents: [1, 1] });
});
