"""Runs a plugin's logic under plain `python -m unittest`, against a fake host: no WebAssembly, no server, no CRM.

The fake answers what it was told to, applies `update` to the records it was given, and keeps everything that the
handler did, for whole-value comparison. It does not imitate the CRM's behaviour.
"""

from __future__ import annotations

import json
from typing import Any, Callable, Mapping, Optional, Union

from salesman import Backend, CrmError, Event, HttpError, Reply, Request, Response, StateError


def event(name: str, fields: Optional[Mapping[str, Any]] = None, **more: Any) -> Event:
    """An event as the host hands it over; `more` is anything else of it: `actor`, `attempt`, `entity`."""
    values: dict[str, Any] = {
        "id": "01936f5e-0000-7000-8000-000000000001",
        "account": "main",
        "name": name,
        "received_at": 1_764_000_000_000,
        "via": "json",
        "actor": 1,
        "entity": None,
        "fields": dict(fields or {}),
        "attempt": 1,
    }
    return Event(**{**values, **more})


class FakeHost:
    """A host that answers what it was told to."""

    def __init__(self, settings: Optional[Mapping[str, Any]] = None, state: Optional[Mapping[str, Any]] = None):
        self.calls: list[tuple[str, Any]] = []
        """Every call to the CRM: `("deal.list", {…})`."""
        self.requests: list[Request] = []
        """Every request to the outside."""
        self.lines: list[str] = []
        """Every log line: `info: …`."""
        self.state: dict[str, str] = {key: json.dumps(value) for key, value in (state or {}).items()}
        """What the state holds, as JSON text."""
        self._settings = dict(settings or {})
        self._answers: dict[str, list[Any]] = {}
        self._responses: list[Any] = []
        self._records: dict[tuple[str, int], dict[str, Any]] = {}

    def answer(self, call: str, body: Any) -> FakeHost:
        """An answer for a call, or the error that it brings; the last one is given again and again."""
        self._answers.setdefault(call, []).append(body)
        return self

    def record(self, kind: str, id: int, fields: Mapping[str, Any]) -> FakeHost:
        """A record that `update` can change."""
        self._records[(kind, id)] = dict(fields)
        return self

    def respond(self, status: Union[int, HttpError], body: str = "") -> FakeHost:
        """A response for a request to the outside, or the error that it brings."""
        self._responses.append(status if isinstance(status, HttpError) else Response(status, [], body.encode()))
        return self

    def run(self, handle: Callable[[Event, Backend], Reply], event: Event) -> Reply:
        """Runs a plugin once; returns its reply."""
        return handle(event, self._backend())

    def _backend(self) -> Backend:
        return _Backend(self)


def _next(queue: list[Any], none: Exception) -> Any:
    value = queue.pop(0) if len(queue) > 1 else (queue[0] if queue else none)
    if isinstance(value, Exception):
        raise value
    return value


class _Backend:
    def __init__(self, fake: FakeHost):
        self.fake = fake

    def crm_call(self, method: str, action: str, arguments: str) -> str:
        call = f"{method}.{action}"
        self.fake.calls.append((call, json.loads(arguments)))
        none = CrmError("invalid", f"the fake host has no answer for `{call}`: give it one with `answer`")
        return json.dumps(_next(self.fake._answers.get(call, []), none))

    def crm_update(self, kind: str, id: int, changes: str, accepted: list[str]) -> list[str]:
        wanted = json.loads(changes)
        call = {"id": id, "changes": wanted, "accepted": accepted} if accepted else {"id": id, "changes": wanted}
        self.fake.calls.append((f"{kind}.update", call))
        record = self.fake._records.get((kind, id))
        if record is None:
            raise CrmError("refused", "Запись не найдена", "403")
        changed = [name for name, value in wanted.items() if record.get(name) != value]
        record.update(wanted)
        return changed

    def state_get(self, key: str) -> Optional[str]:
        return self.fake.state.get(key)

    def state_set(self, key: str, value: str) -> None:
        self.fake.state[key] = value

    def state_delete(self, key: str) -> None:
        self.fake.state.pop(key, None)

    def state_increment(self, key: str, amount: int) -> int:
        try:
            total = int(self.fake.state.get(key, "0")) + amount
        except ValueError as error:
            raise StateError("invalid", f"the state of `{key}` is not a number that can grow") from error
        self.fake.state[key] = str(total)
        return total

    def state_keys(self, prefix: str, after: Optional[str]) -> list[str]:
        wanted = [key for key in sorted(self.fake.state) if key.startswith(prefix) and (after is None or key > after)]
        return wanted[:1000]

    def http_send(self, request: Request) -> Response:
        self.fake.requests.append(request)
        none = HttpError("invalid", "the fake host has no response: give it one with `respond`")
        return _next(self.fake._responses, none)

    def settings(self) -> str:
        return json.dumps(self.fake._settings)

    def log(self, level: str, message: str) -> None:
        self.fake.lines.append(f"{level}: {message}")
