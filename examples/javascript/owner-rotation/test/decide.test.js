import assert from "node:assert/strict";
import test from "node:test";
import { Books, rotation } from "../src/decide.js";

const books = (perAgent = 0) =>
  new Books(
    1,
    {
      architecture: [0, 0, 1],
      schedulable: [true, true, true],
      capacity: [64, 8, 64],
      occupied: [2, 0, 0],
      containers: [2, 1, 0],
    },
    perAgent,
  );
const kernel = (amount, pinned = null) => ({ architecture: 0, requested: [amount], pinned });

test("owners take turns", () => {
  assert.deepEqual(rotation([7, 7, 7, 8, 9, 8]), [0, 3, 4, 1, 5, 2]);
});

test("the agent with the fewest kernels is first, if it has room", () => {
  assert.deepEqual(books().choose(kernel(4)), { agent: 1 });
  assert.deepEqual(books().choose(kernel(9)), { agent: 0 });
  assert.deepEqual(books().choose(kernel(99)), { lack: "no-room" });
  assert.deepEqual(books().choose(kernel(1, 0)), { agent: 0 });
});

test("no more kernels than allowed", () => {
  assert.deepEqual(books(2).choose(kernel(4)), { agent: 1 });
  assert.deepEqual(books(1).choose(kernel(4)), { lack: "held-back" });
});

test("kernels share what is left, and a plan changes nothing", () => {
  const all = books();
  assert.deepEqual(all.place([kernel(6), kernel(6)], false), { agents: [1, 0] });
  assert.deepEqual(all.containers, [2, 1, 0]);
});
