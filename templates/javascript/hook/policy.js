// The component: decide.js behind the contract of wit/policy.wit.
import host from "quarterdeck:policy/host@0.1.0";
import { decide, schema } from "./decide.js";

export const plugin = {
  describe: () => ({
    name: "{{name}}",
    version: "0.1.0",
    summary: "Limits the accelerators of a session, and tags sessions with their project.",
    configSchema: JSON.stringify(schema),
    columns: [],
    events: ["PRE_ENQUEUE_SESSION"],
  }),
  checkConfig: () => {},
};

export const hooks = {
  handle(event) {
    const { deny, patch } = decide(JSON.parse(host.config()), JSON.parse(event.body));
    if (deny) {
      host.count("denied_total", 1);
      return { tag: "deny", val: deny };
    }
    if (patch) return { tag: "reply", val: { patch: JSON.stringify(patch), value: null } };
    return { tag: "allow" };
  },
};
