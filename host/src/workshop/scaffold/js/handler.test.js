// What {{name}} does, against a fake host: `node --test`.

import assert from "node:assert/strict";
import { test } from "node:test";

import { handle } from "./handler.js";
import { done, skip } from "./salesman.js";
import { FakeHost, event } from "./testing.js";

test("events are counted", () => {
    const fake = new FakeHost({ settings: { greeting: "seen" }, state: { "count.{{event}}": 2 } });
    const about = { entity: { kind: "client", id: "7" } };
    assert.deepEqual(fake.run(handle, event("{{event}}", { clid: "7" }, about)), done());
    assert.deepEqual(fake.lines, ["info: seen: client 7, number 3 of {{event}}"]);
});

test("an event about nothing is left alone", () => {
    const fake = new FakeHost();
    assert.deepEqual(fake.run(handle, event("{{event}}")), skip("the event is about no record"));
});
