"""A round in progress. The module is named after the interface of the contract whose resource it implements."""

import json

from wit_world.exports import scheduling
from wit_world.imports import host

import decide

LACKS = {
    "no-compatible-agent": scheduling.Lack.NO_COMPATIBLE_AGENT,
    "no-room": scheduling.Lack.NO_ROOM,
    "exceeds-capacity": scheduling.Lack.EXCEEDS_CAPACITY,
}


class Round(scheduling.Round):
    def __init__(self, snapshot):
        self.prefer = json.loads(host.config()).get("prefer", "packed")
        self.snapshot = snapshot
        agents = snapshot.agents
        self.books = decide.Books(
            len(snapshot.slots), agents.architecture, agents.schedulable, agents.capacity, agents.occupied
        )
        self.turns = iter(decide.order(snapshot.pending.priority))
        self.last = None

    @classmethod
    def open(cls, snapshot):
        return cls(snapshot)

    def kernels(self, session):
        """Architecture, request and pin of each kernel of a session."""
        first, kernels, slots = self.snapshot.pending.first_kernel, self.snapshot.kernels, self.books.slots
        return [
            (kernels.architecture[row], kernels.requested[row * slots : (row + 1) * slots], kernels.agent[row])
            for row in range(first[session], first[session + 1])
        ]

    def propose(self, limit):
        # One at a time: where the next session fits depends on the verdict on this one.
        session = next(self.turns, None)
        if session is None:
            return []
        together = self.snapshot.pending.mode[session] == scheduling.ClusterMode.SINGLE_NODE
        agents, lack = decide.place(self.books, self.kernels(session), together, self.prefer)
        if lack:
            self.last = None
            return [scheduling.Proposal_Defer(scheduling.Deferral(session, LACKS[lack], ""))]
        self.last = (session, agents)
        return [scheduling.Proposal_Place(scheduling.Placement(session, agents))]

    def settle(self, outcomes):
        if self.last and isinstance(outcomes[0], scheduling.Outcome_Accepted):
            session, agents = self.last
            for (_, requested, _), agent in zip(self.kernels(session), agents):
                self.books.occupy(agent, requested)
            host.count("placed_total", 1)

    def explain(self, session, limit):
        kernels = self.kernels(session)
        architecture, requested, _ = kernels[0]
        candidates = []
        for agent in range(len(self.books.capacity)):
            why = decide.obstacle(self.books, agent, architecture, requested)
            score = decide.score(self.books, agent, requested, self.prefer)
            candidates.append(scheduling.Candidate(agent, not why, score, why))
        candidates.sort(key=lambda candidate: (not candidate.feasible, -candidate.score))
        feasible = sum(candidate.feasible for candidate in candidates)
        return scheduling.Explanation(f"{feasible} agents have room for its main kernel.", candidates[:limit])
