// The component: decide.js behind the contract of wit/policy.wit. Amounts are numbers, exact up to 2^53.
import host from "quarterdeck:policy/host@0.1.0";
import { Books, obstacle, order, place, schema, score } from "./decide.js";

export const plugin = {
  describe: () => ({
    name: "{{name}}",
    version: "0.1.0",
    summary: "The most important session first, packed onto few agents or spread over all.",
    configSchema: JSON.stringify(schema),
    columns: [],
    events: [],
  }),
  checkConfig: () => {},
};

class Round {
  constructor(snapshot) {
    this.prefer = JSON.parse(host.config()).prefer ?? "packed";
    this.snapshot = snapshot;
    this.books = new Books(snapshot.slots.length, snapshot.agents);
    this.turns = order(Array.from(snapshot.pending.priority)).values();
    this.last = null;
  }

  static open(snapshot) {
    return new Round(snapshot);
  }

  kernels(session) {
    const { kernels, pending } = this.snapshot;
    const slots = this.books.slots;
    const rows = [];
    for (let row = pending.firstKernel[session]; row < pending.firstKernel[session + 1]; row++) {
      rows.push({
        architecture: kernels.architecture[row],
        requested: Array.from(kernels.requested.slice(row * slots, (row + 1) * slots)),
        pinned: kernels.agent[row],
      });
    }
    return rows;
  }

  propose(_limit) {
    // One at a time: where the next session fits depends on the verdict on this one.
    const { value: session, done } = this.turns.next();
    if (done) return [];
    const together = this.snapshot.pending.mode[session] === "single-node";
    const { agents, lack } = place(this.books, this.kernels(session), together, this.prefer);
    this.last = agents ? { session, agents } : null;
    if (lack) return [{ tag: "defer", val: { session, lack, detail: "" } }];
    return [{ tag: "place", val: { session, agents } }];
  }

  settle(outcomes) {
    if (this.last === null || outcomes[0].tag !== "accepted") return;
    const kernels = this.kernels(this.last.session);
    this.last.agents.forEach((agent, index) => this.books.occupy(agent, kernels[index].requested));
    host.count("placed_total", 1);
  }

  explain(session, limit) {
    const { architecture, requested } = this.kernels(session)[0];
    const candidates = [];
    for (let agent = 0; agent < this.books.count; agent++) {
      const why = obstacle(this.books, agent, architecture, requested);
      candidates.push({ agent, feasible: why === "", score: score(this.books, agent, requested, this.prefer), why });
    }
    candidates.sort((a, b) => b.feasible - a.feasible || b.score - a.score);
    const feasible = candidates.filter((candidate) => candidate.feasible).length;
    return { summary: `${feasible} agents have room for its main kernel.`, candidates: candidates.slice(0, limit) };
  }
}

export const scheduling = { Round };
