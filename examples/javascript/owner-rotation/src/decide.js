// The policy itself: plain JavaScript, so that its tests run in Node.
//
// Owners take turns: each may place one session before anybody places a second one. A session goes to the agent with the
// fewest kernels that has room (`per_agent` at most), so that people don't share agents while others stand idle.

export const schema = {
  $schema: "https://json-schema.org/draft/2020-12/schema",
  type: "object",
  properties: {
    per_agent: {
      description: "The most kernels on an agent; 0 = as many as it has room for.",
      type: "integer",
      minimum: 0,
      default: 0,
    },
  },
  additionalProperties: false,
};

/** Rows of the sessions in the order of their turns: they come oldest first, with their owners. */
export function rotation(owners) {
  const taken = new Map();
  const turns = owners.map((owner, row) => {
    const turn = taken.get(owner) ?? 0;
    taken.set(owner, turn + 1);
    return { row, turn };
  });
  return turns.sort((a, b) => a.turn - b.turn || a.row - b.row).map(({ row }) => row);
}

/** What is left of the agents, with everything accepted so far. */
export class Books {
  constructor(slots, agents, perAgent) {
    this.slots = slots;
    this.agents = agents;
    this.perAgent = perAgent;
    this.occupied = Array.from(agents.occupied);
    this.containers = Array.from(agents.containers);
  }

  fits(agent, requested) {
    return requested.every((amount, slot) => {
      const left = this.agents.capacity[agent * this.slots + slot] - this.occupied[agent * this.slots + slot];
      return left >= 0 && left >= amount;
    });
  }

  full(agent) {
    return this.perAgent > 0 && this.containers[agent] >= this.perAgent;
  }

  /** Books kernels on an agent, or takes them back with `sign` -1. */
  book(agent, requested, kernels, sign = 1) {
    requested.forEach((amount, slot) => {
      this.occupied[agent * this.slots + slot] += sign * amount;
    });
    this.containers[agent] += sign * kernels;
  }

  /** What keeps a request off an agent, for people; empty when it may go there. */
  obstacle(agent, architecture, requested) {
    if (!this.agents.schedulable[agent]) return "takes no sessions";
    if (this.agents.architecture[agent] !== architecture) return "has another architecture";
    if (!this.fits(agent, requested)) return "has not enough left";
    return this.full(agent) ? `runs ${this.containers[agent]} kernels already` : "";
  }

  /** `{ agent }` or `{ lack }`. */
  choose({ architecture, requested, pinned }) {
    if (pinned !== null && pinned !== undefined) {
      return this.fits(pinned, requested) ? { agent: pinned } : { lack: "exceeds-capacity" };
    }
    let best = null;
    let lack = "no-compatible-agent";
    for (let agent = 0; agent < this.containers.length; agent++) {
      if (!this.agents.schedulable[agent] || this.agents.architecture[agent] !== architecture) continue;
      if (lack === "no-compatible-agent") lack = "no-room";
      if (!this.fits(agent, requested)) continue;
      if (this.full(agent)) {
        lack = "held-back";
        continue;
      }
      if (best === null || this.containers[agent] < this.containers[best]) best = agent;
    }
    return best === null ? { lack } : { agent: best };
  }

  /** `{ agents }` for the kernels of a session, or `{ lack }`. The books stay as they are. */
  place(kernels, together) {
    if (together) {
      if (kernels.some((kernel) => kernel.architecture !== kernels[0].architecture)) {
        return { lack: "no-compatible-agent" };
      }
      const requested = kernels[0].requested.map((_, slot) => kernels.reduce((sum, k) => sum + k.requested[slot], 0));
      const { agent, lack } = this.choose({ ...kernels[0], requested });
      return lack ? { lack } : { agents: kernels.map(() => agent) };
    }
    const agents = [];
    let missing = null;
    for (const kernel of kernels) {
      const { agent, lack } = this.choose(kernel);
      if (lack) {
        missing = lack;
        break;
      }
      this.book(agent, kernel.requested, 1);
      agents.push(agent);
    }
    agents.forEach((agent, index) => this.book(agent, kernels[index].requested, 1, -1));
    return missing ? { lack: missing } : { agents };
  }
}
