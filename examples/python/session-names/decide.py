"""The policy itself: plain Python, so that its tests need neither WebAssembly nor the generated bindings.

Names of sessions must match `pattern`, and must not contain a word of `reserved`. Sessions of `exempt_roles` may be called
anything. A name that breaks the rules is denied with one that would do.
"""

import re

SCHEMA = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "properties": {
        "pattern": {
            "description": "Regular expression that the whole name must match.",
            "type": "string",
            "maxLength": 200,
            "default": "[a-z][a-z0-9-]{2,39}",
        },
        "reserved": {
            "description": "Words that no name may contain.",
            "type": "array",
            "items": {"type": "string", "minLength": 1},
            "maxItems": 100,
            "default": [],
        },
        "exempt_roles": {
            "description": "Owners of these roles may choose any name.",
            "type": "array",
            "items": {"enum": ["user", "admin", "superadmin", "monitor"]},
            "default": [],
        },
    },
    "additionalProperties": False,
}


def problems(config):
    """Faults of a configuration that a schema can't find: JSON pointer and message."""
    try:
        re.compile(config.get("pattern", ""))
    except re.error as error:
        return [("/pattern", f"is no regular expression: {error}")]
    return []


def suggestion(name):
    """A name like it that usual patterns take."""
    words = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    return words if words[:1].isalpha() else f"session-{words}".strip("-")


def fault(config, name, role):
    """What is wrong with a name, or None."""
    if role in config.get("exempt_roles", []):
        return None
    pattern = config.get("pattern", SCHEMA["properties"]["pattern"]["default"])
    if not re.fullmatch(pattern, name):
        return f"The name `{name}` doesn't follow this site's rule ({pattern}). Try `{suggestion(name)}`."
    for word in config.get("reserved", []):
        if word in name:
            return f"The name `{name}` contains `{word}`, which is reserved."
    return None
