// The component: decide.js behind the contract of wit/policy.wit.
import host from "quarterdeck:policy/host@0.1.0";
import { limitMs, remainingMs, schema } from "./decide.js";

export const plugin = {
  describe: () => ({
    name: "{{name}}",
    version: "0.1.0",
    summary: "Ends sessions that nobody uses, earlier where they hold an accelerator.",
    configSchema: JSON.stringify(schema),
    columns: [],
    events: [],
  }),
  checkConfig: () => {},
};

export const idling = {
  traits: () => ({ reason: "idle-unused", remaining: "expire-after", metrics: [], historyMs: 0 }),
  check(tick) {
    const config = JSON.parse(host.config());
    const findings = [];
    for (let row = 0; row < tick.count; row++) findings.push({ tag: "ok", val: judge(config, tick, row) });
    host.count("idle_total", findings.filter((finding) => finding.val.state === "idle").length);
    return findings;
  },
};

function judge(config, tick, row) {
  const exempt = { state: "exempt", remainingMs: null, report: "" };
  if (tick.private[row]) return exempt;
  const slots = tick.slots.length;
  const accelerator = tick.slots.some((slot, index) => slot.kind === "unique" && tick.held[row * slots + index] > 0);
  const limit = limitMs(config, accelerator, tick.idleLimitMs[row]);
  if (limit === null) return exempt;
  const access = tick.access[row];
  if (access.tag === "busy" || tick.connections[row] > 0) {
    return { state: "active", remainingMs: limit, report: "" };
  }
  const lastUse = access.tag === "at-ms" ? access.val : null;
  const left = remainingMs(tick.nowMs, tick.startedMs[row], lastUse, tick.graceUntilMs[row], limit);
  return { state: left <= 0 ? "idle" : "active", remainingMs: left, report: JSON.stringify({ accelerator }) };
}
