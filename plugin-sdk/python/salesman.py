"""The pleasant side of the contract `salesman:plugin@1.0.0` for plugins in Python.

- A handler gets an event with parsed fields and a host whose values are ordinary Python values.
- Errors of host calls become replies as in the Rust SDK (see `HostError.is_transient`); whatever else is raised fails
  the attempt, with its message and traceback in the attempt's log.
- Nothing here imports the contract: `entry.py` connects the two, so that a handler also runs under `python -m unittest`.

Not here: typed events and records. Read the SDK's README for the events' fields.
"""

from __future__ import annotations

import json
import traceback
from dataclasses import dataclass, field
from typing import Any, Callable, Mapping, Optional, Protocol, Union

# -- what happened


@dataclass
class Entity:
    """The record that an event is about."""

    kind: str
    id: str


@dataclass
class Event:
    """One event of the CRM, and which delivery of it this is."""

    id: str
    """The event's id, the same in every attempt."""
    account: str
    """The CRM that it came from, as the host's configuration names it."""
    name: str
    """`deal.change.step`"""
    received_at: int
    """Milliseconds since 1970-01-01 UTC."""
    via: str
    """How it came in: `form`, `query`, `json`, `poll`."""
    actor: Optional[int]
    """The employee who caused it."""
    entity: Optional[Entity]
    """The record that it is about."""
    fields: dict[str, Any]
    """What else came with it; scalars are text."""
    attempt: int
    """Which attempt at this delivery this is, from 1."""


# -- replies


@dataclass
class Done:
    """The event is handled."""


@dataclass
class Skip:
    """Nothing to do for this event."""

    reason: str = ""


@dataclass
class Retry:
    """Try again: when the host's backoff says so, but not before `after_ms` milliseconds have passed."""

    reason: str
    after_ms: Optional[int] = None


@dataclass
class Reject:
    """Never going to work: an operator must look."""

    reason: str


Reply = Union[Done, Skip, Retry, Reject]


def done() -> Reply:
    """The event is handled."""
    return Done()


def skip(reason: str = "") -> Reply:
    """Nothing to do for this event, and why."""
    return Skip(str(reason))


def retry(reason: str, after_ms: Optional[float] = None) -> Reply:
    """Try again: when the host's backoff says so, but not before `after_ms` milliseconds have passed."""
    return Retry(str(reason), None if after_ms is None else max(0, int(after_ms)))


def reject(reason: str) -> Reply:
    """Never going to work: an operator must look."""
    return Reject(str(reason))


# -- errors


class HostError(Exception):
    """A call to the host that brought no good answer. Uncaught, it has the delivery retried or rejected."""

    def __init__(self, kind: str, message: str):
        super().__init__(message)
        self.kind = kind
        """The contract's word: `not-granted`, `refused`, `transport`, `bad-answer`, `invalid`, `uncertain`."""

    def is_transient(self) -> bool:
        """Whether the same call may succeed later: time or the administrator may help."""
        return self.kind in ("transport", "bad-answer", "not-granted")


class CrmError(HostError):
    """A call to the CRM failed. `code` is the CRM's own, where it refused with one."""

    def __init__(self, kind: str, text: str, code: Optional[str] = None):
        before = {
            "refused": "the CRM refused: " if code is None else f"the CRM refused with code {code}: ",
            "transport": "the CRM could not be reached: ",
            "bad-answer": "the CRM gave an answer that is not the API's: ",
            "invalid": "the call can't be made: ",
        }
        super().__init__(kind, before.get(kind, "") + text)
        self.code = code

    def is_transient(self) -> bool:
        # 401: the host's key or login is wrong, which has nothing to do with this event.
        return super().is_transient() or self.code == "401"


class StateError(HostError):
    """A call to the plugin's state failed."""

    def __init__(self, kind: str, text: str):
        super().__init__(kind, f"the state call can't be made: {text}" if kind == "invalid" else text)


class HttpError(HostError):
    """A request to the outside brought no answer."""

    def __init__(self, kind: str, text: str):
        before = {"transport": "the request brought no answer: ", "invalid": "the request can't be made: "}
        super().__init__(kind, before.get(kind, "") + text)


class DataError(Exception):
    """An event, a setting, an answer or a stored value of another form than expected: the delivery is rejected."""


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


# -- the host


@dataclass
class Request:
    """One request to the outside."""

    method: str
    url: str
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""
    timeout_ms: Optional[int] = None


@dataclass
class Response:
    """What the other side answered, 4xx and 5xx included."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    @property
    def ok(self) -> bool:
        """Whether the status is 2xx."""
        return 200 <= self.status < 300

    def text(self) -> str:
        """The body as text."""
        return self.body.decode("utf-8", "replace")

    def json(self) -> Any:
        """The body as JSON."""
        try:
            return json.loads(self.body)
        except ValueError as error:
            raise DataError(f"the answer is not JSON: {error}") from error


class Backend(Protocol):
    """What stands behind a `Host`: the contract's imports, or a test's fake. JSON crosses as text."""

    def crm_call(self, method: str, action: str, arguments: str) -> str: ...
    def crm_update(self, kind: str, id: int, changes: str, accepted: list[str]) -> list[str]: ...
    def state_get(self, key: str) -> Optional[str]: ...
    def state_set(self, key: str, value: str) -> None: ...
    def state_delete(self, key: str) -> None: ...
    def state_increment(self, key: str, amount: int) -> int: ...
    def state_keys(self, prefix: str, after: Optional[str]) -> list[str]: ...
    def http_send(self, request: Request) -> Response: ...
    def settings(self) -> str: ...
    def log(self, level: str, message: str) -> None: ...


class Crm:
    """The CRM's REST API."""

    def __init__(self, backend: Backend):
        self._backend = backend

    def call(self, method: str, action: str, arguments: Optional[Mapping[str, Any]] = None) -> Any:
        """Calls `method.action` as it is; returns the CRM's whole answer."""
        text = self._backend.crm_call(method, action, _text(arguments or {}))
        try:
            return json.loads(text)
        except ValueError as error:
            raise CrmError("bad-answer", str(error)) from error

    def update(
        self, kind: str, id: Union[int, str], changes: Mapping[str, Any], accepted: Optional[list[str]] = None
    ) -> list[str]:
        """Changes some fields of a `client`, `person`, `deal` or `task` and loses no other; returns those that were written.

        What the API can't preserve is refused (`crm.would_lose`), unless the loss of those columns is `accepted`.
        """
        if kind not in ("client", "person", "deal", "task"):
            raise CrmError("invalid", f"`{kind}` can't be updated: only client, person, deal and task can")
        if not str(id).isdecimal():
            raise CrmError("invalid", f"`{id}` is not the number of a {kind}")
        return self._backend.crm_update(kind, int(id), _text(changes), list(accepted or []))


class State:
    """The plugin's own memory, kept per account. Values are JSON. Writes take effect with the reply, or not at all."""

    def __init__(self, backend: Backend):
        self._backend = backend

    def get(self, key: str, default: Any = None) -> Any:
        """The value of `key`; `default` where there is none."""
        text = self._backend.state_get(key)
        if text is None:
            return default
        try:
            return json.loads(text)
        except ValueError as error:
            raise DataError(f"the state of `{key}` is not JSON: {error}") from error

    def set(self, key: str, value: Any) -> None:
        """Sets `key`."""
        self._backend.state_set(key, _text(value))

    def delete(self, key: str) -> None:
        """Removes `key`."""
        self._backend.state_delete(key)

    def increment(self, key: str, amount: int = 1) -> int:
        """Adds to the whole number at `key` (0 where there is none); returns the sum. Deliveries at once add up correctly."""
        return self._backend.state_increment(key, amount)

    def keys(self, prefix: str = "", after: Optional[str] = None) -> list[str]:
        """The keys that start with `prefix`, sorted: at most 1,000, those behind `after`."""
        return self._backend.state_keys(prefix, after)


class Http:
    """Requests to the outside, to granted origins only."""

    def __init__(self, backend: Backend):
        self._backend = backend

    def send(
        self,
        method: str,
        url: str,
        headers: Optional[Mapping[str, str]] = None,
        body: Union[str, bytes] = b"",
        timeout_ms: Optional[int] = None,
    ) -> Response:
        """Sends a request and waits for the whole answer."""
        content = body.encode() if isinstance(body, str) else body
        return self._backend.http_send(Request(method, url, list((headers or {}).items()), content, timeout_ms))

    def post_json(self, url: str, body: Any) -> Response:
        """Posts `body` as JSON."""
        return self.send("POST", url, {"content-type": "application/json"}, _text(body))


class Log:
    """Lines that are kept with the attempt."""

    def __init__(self, backend: Backend):
        self._backend = backend

    def debug(self, message: object) -> None:
        """For the plugin's author."""
        self._backend.log("debug", str(message))

    def info(self, message: object) -> None:
        """What happened."""
        self._backend.log("info", str(message))

    def warn(self, message: object) -> None:
        """Something is odd, the work goes on."""
        self._backend.log("warn", str(message))

    def error(self, message: object) -> None:
        """Something failed."""
        self._backend.log("error", str(message))


class Host:
    """What a handler can reach."""

    def __init__(self, backend: Backend):
        self._backend = backend
        self.crm = Crm(backend)
        self.state = State(backend)
        self.http = Http(backend)
        self.log = Log(backend)

    def settings(self) -> dict[str, Any]:
        """The manifest's `[settings]`, keys replaced by the administrator's."""
        try:
            return json.loads(self._backend.settings())
        except ValueError as error:
            raise DataError(f"the settings are not JSON: {error}") from error


# -- the plugin

_MOST_FRAMES = 20
"""Frames of a traceback that a log line shows: the last ones."""

Handler = Callable[[Event, Host], Reply]


def plugin(handler: Handler) -> Callable[[Event, Backend], Reply]:
    """Makes a handler a plugin: put `@plugin` above `def handle(event, host)`."""

    def handle(event: Event, backend: Backend) -> Reply:
        try:
            reply = handler(event, Host(backend))
            if not isinstance(reply, (Done, Skip, Retry, Reject)):
                words = "end it with `return done()`, `skip`, `retry` or `reject`"
                raise TypeError(f"the handler returned no reply: {words}")
            return reply
        except DataError as error:
            return Reject(str(error))
        except HostError as error:
            return Retry(str(error)) if error.is_transient() else Reject(str(error))
        except BaseException as error:
            # The host sees only that the plugin stopped: why, it has to be told before.
            message = "".join(traceback.format_exception_only(type(error), error)).strip()
            frames = "".join(traceback.format_tb(error.__traceback__)[1:][-_MOST_FRAMES:])
            backend.log("error", f"{message}\n{frames}".rstrip())
            raise

    return handle
