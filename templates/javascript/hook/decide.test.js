import assert from "node:assert/strict";
import test from "node:test";
import { decide } from "../src/decide.js";

const body = (devices, project = "default", tag = null) => ({
  session: { kernels: [{ slots: { cpu: "4", "cuda.device": devices } }], tag },
  owner: { project },
});

test("too many accelerators are denied with the facts", () => {
  const { deny } = decide({}, body("3"));
  assert.match(deny.reason, /at most 2 accelerators/);
  assert.deepEqual(deny.fields[1], ["requested", "3"]);
});

test("exempt projects may have more", () => {
  assert.deepEqual(decide({ exempt_projects: ["vision"] }, body("8", "vision", "x")), {});
});

test("sessions are tagged with their project", () => {
  assert.deepEqual(decide({}, body("1")), { patch: { session: { tag: "default" } } });
});
