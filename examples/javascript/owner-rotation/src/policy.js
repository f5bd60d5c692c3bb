// The component: decide.js behind the contract of wit/policy.wit. Amounts are numbers, exact up to 2^53.
import host from "quarterdeck:policy/host@0.1.0";
import { Books, rotation, schema } from "./decide.js";

export const plugin = {
  describe: () => ({
    name: "owner-rotation",
    version: "1.0.0",
    summary: "Owners take turns; sessions go to the agent with the fewest kernels.",
    configSchema: JSON.stringify(schema),
    columns: [],
    events: [],
  }),
  checkConfig: () => {},
};

class Round {
  constructor(snapshot) {
    const config = JSON.parse(host.config());
    this.snapshot = snapshot;
    this.books = new Books(snapshot.slots.length, snapshot.agents, config.per_agent ?? 0);
    this.turns = rotation(Array.from(snapshot.pending.owner)).values();
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
    const { value: session, done } = this.turns.next();
    if (done) return [];
    const together = this.snapshot.pending.mode[session] === "single-node";
    const { agents, lack } = this.books.place(this.kernels(session), together);
    this.last = agents ? { session, agents } : null;
    if (lack) return [{ tag: "defer", val: { session, lack, detail: "" } }];
    return [{ tag: "place", val: { session, agents } }];
  }

  settle(outcomes) {
    if (this.last === null || outcomes[0].tag !== "accepted") return;
    const kernels = this.kernels(this.last.session);
    this.last.agents.forEach((agent, index) => this.books.book(agent, kernels[index].requested, 1));
    host.count("placed_total", 1);
  }

  explain(session, limit) {
    const { architecture, requested } = this.kernels(session)[0];
    const candidates = this.books.containers.map((kernels, agent) => {
      const why = this.books.obstacle(agent, architecture, requested);
      return { agent, feasible: why === "", score: -kernels, why: why || `runs ${kernels} kernels` };
    });
    candidates.sort((a, b) => b.feasible - a.feasible || b.score - a.score);
    const feasible = candidates.filter((candidate) => candidate.feasible).length;
    return { summary: `${feasible} agents would take its main kernel.`, candidates: candidates.slice(0, limit) };
  }
}

export const scheduling = { Round };
