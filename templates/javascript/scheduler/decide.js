// The policy itself: plain JavaScript, so that its tests run in Node.
//
// The most important session first, then the oldest, on the agent that it fills up most (`prefer: "packed"`) or least
// (`prefer: "spread"`). A session without room lets the others pass.

export const schema = {
  $schema: "https://json-schema.org/draft/2020-12/schema",
  type: "object",
  properties: {
    prefer: {
      description: "Whether sessions are packed onto few agents or spread over all.",
      enum: ["packed", "spread"],
      default: "packed",
    },
  },
  additionalProperties: false,
};

/** What is left of the agents, with everything accepted so far. */
export class Books {
  constructor(slots, agents) {
    this.slots = slots;
    this.agents = agents;
    this.count = agents.architecture.length;
    this.occupied = Array.from(agents.occupied);
  }

  left(agent, slot) {
    return this.agents.capacity[agent * this.slots + slot] - this.occupied[agent * this.slots + slot];
  }

  fits(agent, requested) {
    return requested.every((amount, slot) => this.left(agent, slot) >= 0 && this.left(agent, slot) >= amount);
  }

  occupy(agent, requested, sign = 1) {
    requested.forEach((amount, slot) => {
      this.occupied[agent * this.slots + slot] += sign * amount;
    });
  }
}

/** Rows of the sessions in the order of their turns; they come oldest first. */
export function order(priorities) {
  return [...priorities.keys()].sort((a, b) => priorities[b] - priorities[a] || a - b);
}

/** How good an agent is for a request: larger is better. */
export function score(books, agent, requested, prefer) {
  let [sum, count] = [0, 0];
  requested.forEach((amount, slot) => {
    const capacity = books.agents.capacity[agent * books.slots + slot];
    if (amount > 0 && capacity > 0) {
      sum += (books.left(agent, slot) - amount) / capacity;
      count += 1;
    }
  });
  const leftFree = count > 0 ? sum / count : 0;
  return prefer === "spread" ? leftFree : -leftFree;
}

/** What keeps a request off an agent, for people; empty when it has room. */
export function obstacle(books, agent, architecture, requested) {
  if (!books.agents.schedulable[agent]) return "takes no sessions";
  if (books.agents.architecture[agent] !== architecture) return "has another architecture";
  return books.fits(agent, requested) ? "" : "has not enough left";
}

/** `{ agent }` for a request, or `{ lack }`. */
export function choose(books, { architecture, requested, pinned }, prefer) {
  if (pinned !== null && pinned !== undefined) {
    return books.fits(pinned, requested) ? { agent: pinned } : { lack: "exceeds-capacity" };
  }
  let [compatible, best] = [false, null];
  for (let agent = 0; agent < books.count; agent++) {
    if (!books.agents.schedulable[agent] || books.agents.architecture[agent] !== architecture) continue;
    compatible = true;
    if (!books.fits(agent, requested)) continue;
    const value = score(books, agent, requested, prefer);
    if (best === null || value > best.value) best = { agent, value };
  }
  if (best !== null) return { agent: best.agent };
  return { lack: compatible ? "no-room" : "no-compatible-agent" };
}

/** `{ agents }` for the kernels of a session, or `{ lack }`. The books stay as they are. */
export function place(books, kernels, together, prefer) {
  if (together) {
    if (kernels.some((kernel) => kernel.architecture !== kernels[0].architecture)) {
      return { lack: "no-compatible-agent" };
    }
    const requested = kernels[0].requested.map((_, slot) => kernels.reduce((sum, k) => sum + k.requested[slot], 0));
    const { agent, lack } = choose(books, { ...kernels[0], requested }, prefer);
    return lack ? { lack } : { agents: kernels.map(() => agent) };
  }
  const agents = [];
  let missing = null;
  for (const kernel of kernels) {
    const { agent, lack } = choose(books, kernel, prefer);
    if (lack) {
      missing = lack;
      break;
    }
    // The kernels share what is left; only the host's verdict makes it true.
    books.occupy(agent, kernel.requested);
    agents.push(agent);
  }
  agents.forEach((agent, index) => books.occupy(agent, kernels[index].requested, -1));
  return missing ? { lack: missing } : { agents };
}
