// The policy itself: plain JavaScript, so that its tests run in Node.
//
// A session may ask for at most `max_accelerators` devices of all kinds together, unless its project is exempt. What has
// no tag gets the project's name as its tag.

export const schema = {
  $schema: "https://json-schema.org/draft/2020-12/schema",
  type: "object",
  properties: {
    max_accelerators: {
      description: "The most devices that a session may ask for.",
      type: "integer",
      minimum: 0,
      default: 2,
    },
    exempt_projects: {
      description: "Projects whose sessions may ask for more.",
      type: "array",
      items: { type: "string" },
      default: [],
    },
  },
  additionalProperties: false,
};

/** How many devices the kernels of a session ask for together. */
export function accelerators(session) {
  let sum = 0;
  for (const kernel of session.kernels) {
    for (const [slot, amount] of Object.entries(kernel.slots)) {
      if (slot.endsWith(".device")) sum += Number(amount);
    }
  }
  return sum;
}

/** `{ deny: { reason, fields } }`, `{ patch }` or nothing of it. */
export function decide(config, body) {
  const { session, owner } = body;
  const limit = config.max_accelerators ?? 2;
  const wanted = accelerators(session);
  if (wanted > limit && !(config.exempt_projects ?? []).includes(owner.project)) {
    const reason = `A session may ask for at most ${limit} accelerators here; this one asks for ${wanted}.`;
    return { deny: { reason, fields: [["rule", "max_accelerators"], ["requested", String(wanted)]] } };
  }
  return session.tag || !owner.project ? {} : { patch: { session: { tag: owner.project } } };
}
