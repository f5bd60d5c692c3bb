// The policy itself: plain JavaScript, so that its tests run in Node.
//
// A session that nobody has used for `idle_minutes` is idle; one that holds an accelerator after `accelerator_minutes`
// already. Whoever is connected uses it. The owner's resource policy may be stricter.

const minutes = (description, value) => ({
  description,
  type: "number",
  exclusiveMinimum: 0,
  maximum: 525600,
  default: value,
});

export const schema = {
  $schema: "https://json-schema.org/draft/2020-12/schema",
  type: "object",
  properties: {
    idle_minutes: minutes("Minutes without use after which a session is idle.", 60),
    accelerator_minutes: minutes("The same for sessions that hold an accelerator.", 20),
  },
  additionalProperties: false,
};

/** How long a session may be idle in milliseconds; null = for ever. */
export function limitMs(config, holdsAccelerator, ownersLimitMs) {
  if (ownersLimitMs === 0) return null;
  const limit = holdsAccelerator ? (config.accelerator_minutes ?? 20) : (config.idle_minutes ?? 60);
  return Math.min(Math.round(limit * 60_000), ownersLimitMs ?? Infinity);
}

/** Time left before a session that is not in use is idle; 0 or less means it is. */
export function remainingMs(nowMs, startedMs, lastUseMs, graceUntilMs, limit) {
  return Math.max(startedMs, lastUseMs ?? startedMs, graceUntilMs ?? startedMs) + limit - nowMs;
}
