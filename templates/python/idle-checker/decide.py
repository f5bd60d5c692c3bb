"""The policy itself: plain Python, so that its tests need neither WebAssembly nor the generated bindings.

A session that nobody has used for `idle_minutes` is idle; one that holds an accelerator after `accelerator_minutes`
already. Whoever is connected uses it. The owner's resource policy may be stricter.
"""

SCHEMA = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "properties": {
        "idle_minutes": {
            "description": "Minutes without use after which a session is idle.",
            "type": "number",
            "exclusiveMinimum": 0,
            "maximum": 525600,
            "default": 60,
        },
        "accelerator_minutes": {
            "description": "The same for sessions that hold an accelerator.",
            "type": "number",
            "exclusiveMinimum": 0,
            "maximum": 525600,
            "default": 20,
        },
    },
    "additionalProperties": False,
}


def limit_ms(config, holds_accelerator, owners_limit_ms):
    """How long a session may be idle; None = for ever."""
    if owners_limit_ms == 0:
        return None
    name, default = ("accelerator_minutes", 20) if holds_accelerator else ("idle_minutes", 60)
    limit = round(config.get(name, default) * 60_000)
    return limit if owners_limit_ms is None else min(limit, owners_limit_ms)


def remaining_ms(now_ms, started_ms, last_use_ms, grace_until_ms, limit):
    """Time left before a session that is not in use is idle; 0 or less means it is."""
    since = started_ms if last_use_ms is None else max(started_ms, last_use_ms)
    if grace_until_ms is not None:
        since = max(since, grace_until_ms)
    return since + limit - now_ms
