"""The component: `decide` behind the contract of `wit/policy.wit`."""

import json

from wit_world import exports
from wit_world.exports import hooks, plugin
from wit_world.imports import host

import decide


class Plugin(exports.Plugin):
    def describe(self):
        return plugin.Info(
            name="{{name}}",
            version="0.1.0",
            summary="Limits the accelerators of a session, and tags sessions with their project.",
            config_schema=json.dumps(decide.SCHEMA),
            columns=[],
            events=["PRE_ENQUEUE_SESSION"],
        )

    def check_config(self, config):
        return None


class Hooks(exports.Hooks):
    def handle(self, event):
        verdict, *rest = decide.decide(json.loads(host.config()), json.loads(event.body))
        if verdict == "deny":
            host.count("denied_total", 1)
            return hooks.Verdict_Deny(hooks.Denial(*rest))
        if verdict == "patch":
            return hooks.Verdict_Reply(hooks.Reply(json.dumps(rest[0]), None))
        return hooks.Verdict_Allow()
