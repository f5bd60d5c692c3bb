"""The component: `decide` behind the contract of `wit/policy.wit`. `scheduling.py` has the round."""

import json

from wit_world import exports
from wit_world.exports import plugin

import decide


class Plugin(exports.Plugin):
    def describe(self):
        return plugin.Info(
            name="{{name}}",
            version="0.1.0",
            summary="The most important session first, packed onto few agents or spread over all.",
            config_schema=json.dumps(decide.SCHEMA),
            columns=[],
            events=[],
        )

    def check_config(self, config):
        return None
