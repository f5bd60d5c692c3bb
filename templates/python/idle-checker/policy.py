"""The component: `decide` behind the contract of `wit/policy.wit`."""

import json

from componentize_py_types import Ok
from wit_world import exports
from wit_world.exports import idling, plugin
from wit_world.imports import host, types

import decide


class Plugin(exports.Plugin):
    def describe(self):
        return plugin.Info(
            name="{{name}}",
            version="0.1.0",
            summary="Ends sessions that nobody uses, earlier where they hold an accelerator.",
            config_schema=json.dumps(decide.SCHEMA),
            columns=[],
            events=[],
        )

    def check_config(self, config):
        return None


class Idling(exports.Idling):
    def traits(self):
        return idling.CheckerTraits("idle-unused", idling.RemainingType.EXPIRE_AFTER, [], 0)

    def check(self, tick):
        config = json.loads(host.config())
        findings = [Ok(judge(config, tick, row)) for row in range(tick.count)]
        host.count("idle_total", sum(finding.value.state == idling.State.IDLE for finding in findings))
        return findings


def judge(config, tick, row):
    if tick.private[row]:
        return idling.Finding(idling.State.EXEMPT, None, "")
    slots = len(tick.slots)
    held = tick.held[row * slots : (row + 1) * slots]
    accelerator = any(
        amount > 0 and slot.kind == types.SlotKind.UNIQUE for slot, amount in zip(tick.slots, held)
    )
    limit = decide.limit_ms(config, accelerator, tick.idle_limit_ms[row])
    if limit is None:
        return idling.Finding(idling.State.EXEMPT, None, "")
    access = tick.access[row]
    if isinstance(access, idling.Access_Busy) or tick.connections[row] > 0:
        return idling.Finding(idling.State.ACTIVE, limit, "")
    last_use = access.value if isinstance(access, idling.Access_AtMs) else None
    left = decide.remaining_ms(tick.now_ms, tick.started_ms[row], last_use, tick.grace_until_ms[row], limit)
    state = idling.State.IDLE if left <= 0 else idling.State.ACTIVE
    return idling.Finding(state, left, json.dumps({"accelerator": accelerator}))
