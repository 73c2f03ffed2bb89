"""The component's entry: connects the contract's imports with `handler.py`. Built, never edited, never imported by tests."""

import io
import json
import sys

from componentize_py_types import Err
from wit_world.imports import crm, http, log, settings, state, types

import handler
import salesman

_CRM_ERRORS = {
    crm.Error_NotGranted: "not-granted",
    crm.Error_Transport: "transport",
    crm.Error_BadAnswer: "bad-answer",
    crm.Error_Invalid: "invalid",
    crm.Error_Uncertain: "uncertain",
}
_STATE_ERRORS = {state.Error_NotGranted: "not-granted", state.Error_Invalid: "invalid"}
_HTTP_ERRORS = {
    http.Error_NotGranted: "not-granted",
    http.Error_Transport: "transport",
    http.Error_Invalid: "invalid",
}


def _crm_error(error):
    if isinstance(error, crm.Error_Refused):
        return salesman.CrmError("refused", error.value.text, error.value.code)
    return salesman.CrmError(_CRM_ERRORS[type(error)], error.value)


class _Imports:
    """The contract's imports as what stands behind a `salesman.Host`."""

    def crm_call(self, method, action, arguments):
        try:
            return crm.call(crm.Request(method, action, arguments))
        except Err as error:
            raise _crm_error(error.value) from None

    def crm_update(self, kind, id, changes, accepted):
        try:
            if not accepted:
                return crm.update(crm.RecordKind[kind.upper()], id, changes)
            return crm.update_losing(crm.RecordKind[kind.upper()], id, changes, accepted)
        except Err as error:
            raise _crm_error(error.value) from None

    def _state(self, call, *arguments):
        try:
            return call(*arguments)
        except Err as error:
            raise salesman.StateError(_STATE_ERRORS[type(error.value)], error.value.value) from None

    def state_get(self, key):
        return self._state(state.get, key)

    def state_set(self, key, value):
        self._state(state.set, key, value)

    def state_delete(self, key):
        self._state(state.delete, key)

    def state_increment(self, key, amount):
        return self._state(state.increment, key, amount)

    def state_keys(self, prefix, after):
        return self._state(state.keys, prefix, after)

    def http_send(self, request):
        wanted = http.Request(request.method, request.url, request.headers, request.body, request.timeout_ms)
        try:
            answer = http.send(wanted)
        except Err as error:
            raise salesman.HttpError(_HTTP_ERRORS[type(error.value)], error.value.value) from None
        return salesman.Response(answer.status, answer.headers, answer.body)

    def settings(self):
        return settings.get()

    def log(self, level, message):
        log.write(log.Level[level.upper()], message)


class _Printed(io.TextIOBase):
    """Output would go nowhere: what is printed is kept with the attempt instead, line by line."""

    def __init__(self, level):
        self._level = level
        self._begun = ""

    def writable(self):
        return True

    def write(self, text):
        *lines, self._begun = (self._begun + text).split("\n")
        for line in lines:
            log.write(self._level, line)
        return len(text)

    def finish(self):
        if self._begun:
            self.write("\n")


def _reply(reply):
    if isinstance(reply, salesman.Skip):
        return types.Reply_Skip(reply.reason)
    if isinstance(reply, salesman.Retry):
        return types.Reply_Retry(types.Retry(reply.reason, reply.after_ms))
    if isinstance(reply, salesman.Reject):
        return types.Reply_Reject(reply.reason)
    return types.Reply_Done()


class WitWorld:
    """What componentize-py looks for."""

    def handle(self, event):
        try:
            fields = json.loads(event.fields)
        except ValueError as error:
            return types.Reply_Reject(f"the event's fields are not a JSON object: {error}")
        entity = event.entity and salesman.Entity(event.entity.kind, event.entity.id)
        received = salesman.Event(
            event.id,
            event.account,
            event.name,
            event.received_at,
            event.via.name.lower(),
            event.actor,
            entity,
            fields,
            event.attempt,
        )
        before = sys.stdout, sys.stderr
        printed = sys.stdout, sys.stderr = _Printed(log.Level.INFO), _Printed(log.Level.WARN)
        try:
            return _reply(handler.handle(received, _Imports()))
        finally:
            # componentize-py prints an exception as well, which is in the log already.
            sys.stdout, sys.stderr = before
            for stream in printed:
                stream.finish()
