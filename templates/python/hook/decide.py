"""The policy itself: plain Python, so that its tests need neither WebAssembly nor the generated bindings.

A session may ask for at most `max_accelerators` devices of all kinds together, unless its project is exempt. What has no
tag gets the project's name as its tag.
"""

SCHEMA = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "properties": {
        "max_accelerators": {
            "description": "The most devices that a session may ask for.",
            "type": "integer",
            "minimum": 0,
            "default": 2,
        },
        "exempt_projects": {
            "description": "Projects whose sessions may ask for more.",
            "type": "array",
            "items": {"type": "string"},
            "default": [],
        },
    },
    "additionalProperties": False,
}


def accelerators(session):
    """How many devices the kernels of a session ask for together."""
    return sum(
        float(amount)
        for kernel in session["kernels"]
        for slot, amount in kernel["slots"].items()
        if slot.endswith(".device")
    )


def decide(config, body):
    """`("deny", reason, fields)`, `("patch", patch)` or `("allow",)`."""
    session, project = body["session"], body["owner"]["project"]
    limit = config.get("max_accelerators", 2)
    wanted = accelerators(session)
    if wanted > limit and project not in config.get("exempt_projects", []):
        reason = f"A session may ask for at most {limit} accelerators here; this one asks for {wanted:g}."
        return "deny", reason, [("rule", "max_accelerators"), ("requested", f"{wanted:g}")]
    if not session.get("tag") and project:
        return "patch", {"session": {"tag": project}}
    return ("allow",)
