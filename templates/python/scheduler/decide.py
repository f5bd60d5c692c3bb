"""The policy itself: plain Python, so that its tests need neither WebAssembly nor the generated bindings.

The most important session first, then the oldest, on the agent that it fills up most (`prefer: packed`) or least
(`prefer: spread`). A session without room lets the others pass.
"""

SCHEMA = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "properties": {
        "prefer": {
            "description": "Whether sessions are packed onto few agents or spread over all.",
            "enum": ["packed", "spread"],
            "default": "packed",
        }
    },
    "additionalProperties": False,
}


class Books:
    """What is left of the agents, with everything accepted so far."""

    def __init__(self, slots, architectures, schedulable, capacity, occupied):
        self.slots = slots
        self.architectures = architectures
        self.schedulable = schedulable
        self.capacity = [capacity[i : i + slots] for i in range(0, len(capacity), slots)]
        self.occupied = [occupied[i : i + slots] for i in range(0, len(occupied), slots)]

    def left(self, agent):
        return [c - o for c, o in zip(self.capacity[agent], self.occupied[agent])]

    def fits(self, agent, requested):
        return all(left >= 0 and left >= r for left, r in zip(self.left(agent), requested))

    def occupy(self, agent, requested):
        self.occupied[agent] = [o + r for o, r in zip(self.occupied[agent], requested)]

    def release(self, agent, requested):
        self.occupied[agent] = [o - r for o, r in zip(self.occupied[agent], requested)]


def order(priorities):
    """Rows of the sessions in the order of their turns; they come oldest first."""
    return sorted(range(len(priorities)), key=lambda row: -priorities[row])


def score(books, agent, requested, prefer):
    """How good an agent is for a request: larger is better."""
    shares = [
        (left - r) / capacity
        for left, r, capacity in zip(books.left(agent), requested, books.capacity[agent])
        if r > 0 and capacity > 0
    ]
    left_free = sum(shares) / len(shares) if shares else 0.0
    return left_free if prefer == "spread" else -left_free


def obstacle(books, agent, architecture, requested):
    """What keeps a request off an agent, for people; empty when it has room."""
    if not books.schedulable[agent]:
        return "takes no sessions"
    if books.architectures[agent] != architecture:
        return "has another architecture"
    return "" if books.fits(agent, requested) else "has not enough left"


def choose(books, architecture, requested, pinned, prefer):
    """The agent for a request, and what is lacking if there is none."""
    if pinned is not None:
        return (pinned, None) if books.fits(pinned, requested) else (None, "exceeds-capacity")
    compatible = [
        agent
        for agent in range(len(books.capacity))
        if books.schedulable[agent] and books.architectures[agent] == architecture
    ]
    if not compatible:
        return None, "no-compatible-agent"
    fitting = [agent for agent in compatible if books.fits(agent, requested)]
    if not fitting:
        return None, "no-room"
    return max(fitting, key=lambda agent: score(books, agent, requested, prefer)), None


def place(books, kernels, together, prefer):
    """Agents for the kernels `(architecture, requested, pinned)` of a session, and what is lacking. The books stay."""
    if together:
        if len({architecture for architecture, _, _ in kernels}) > 1:
            return None, "no-compatible-agent"
        total = [sum(amounts) for amounts in zip(*(requested for _, requested, _ in kernels))]
        agent, lack = choose(books, kernels[0][0], total, kernels[0][2], prefer)
        return (None, lack) if lack else ([agent] * len(kernels), None)
    agents, lack = [], None
    for architecture, requested, pinned in kernels:
        agent, lack = choose(books, architecture, requested, pinned, prefer)
        if lack:
            break
        # The kernels share what is left; only the host's verdict makes it true.
        books.occupy(agent, requested)
        agents.append(agent)
    for (_, requested, _), agent in zip(kernels, agents):
        books.release(agent, requested)
    return (None, lack) if lack else (agents, None)
