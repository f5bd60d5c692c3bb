"""The component: `decide` behind the contract of `wit/policy.wit`."""

import json

from componentize_py_types import Err
from wit_world import exports
from wit_world.exports import hooks, plugin
from wit_world.imports import host

import decide


class Plugin(exports.Plugin):
    def describe(self):
        return plugin.Info(
            name="session-names",
            version="1.0.0",
            summary="Refuses sessions whose names break this site's rules.",
            config_schema=json.dumps(decide.SCHEMA),
            columns=[],
            events=["PRE_ENQUEUE_SESSION"],
        )

    def check_config(self, config):
        faults = decide.problems(json.loads(config))
        if faults:
            raise Err([plugin.ConfigProblem(pointer, message) for pointer, message in faults])


class Hooks(exports.Hooks):
    def handle(self, event):
        body = json.loads(event.body)
        name = body["session"]["name"]
        fault = decide.fault(json.loads(host.config()), name, body["owner"]["role"])
        if fault is None:
            return hooks.Verdict_Allow()
        host.count("refused_total", 1)
        return hooks.Verdict_Deny(hooks.Denial(fault, [("name", name)]))
