// The helper against the fake host: which error becomes which reply, and what crosses as what.

import assert from "node:assert/strict";
import { test } from "node:test";

import { CrmError, DataError, HttpError, StateError, done, plugin, reject, retry, skip } from "./salesman.js";
import { FakeHost, event } from "./testing.js";

const failing = (error) => plugin(() => { throw error; });

test("each error becomes the reply that the Rust SDK makes of it", () => {
    for (const [error, expected] of [
        [new CrmError("transport", "no answer"), retry("the CRM could not be reached: no answer")],
        [new CrmError("bad-answer", "<html>"), retry("the CRM gave an answer that is not the API's: <html>")],
        [new CrmError("not-granted", "ask"), retry("ask")],
        [new CrmError("refused", "ключ", "401"), retry("the CRM refused with code 401: ключ")],
        [new CrmError("refused", "нет", "403"), reject("the CRM refused with code 403: нет")],
        [new CrmError("refused", "нет"), reject("the CRM refused: нет")],
        [new CrmError("invalid", "no object"), reject("the call can't be made: no object")],
        [new CrmError("uncertain", "look"), reject("look")],
        [new StateError("not-granted", "ask"), retry("ask")],
        [new StateError("invalid", "large"), reject("the state call can't be made: large")],
        [new HttpError("transport", "late"), retry("the request brought no answer: late")],
        [new HttpError("not-granted", "ask"), retry("ask")],
        [new HttpError("invalid", "url"), reject("the request can't be made: url")],
        [new DataError("no `did`"), reject("no `did`")],
    ]) {
        assert.deepEqual(new FakeHost().run(failing(error), event("a.b")), expected);
    }
});

test("any other exception fails the attempt, and its message and place are in the log", async () => {
    const late = plugin(async () => { throw new RangeError("late"); });
    for (const [handler, words] of [[failing(new TypeError("wrong")), "TypeError: wrong"], [late, "RangeError: late"]]) {
        const fake = new FakeHost();
        await assert.rejects(async () => fake.run(handler, event("a.b")), new RegExp(words.split(": ")[1]));
        assert.match(fake.lines.join("\n"), new RegExp(`^error: ${words}\n[^]*salesman.test.js:\\d+`));
    }
    const silent = new FakeHost();
    assert.throws(() => silent.run(plugin(() => {}), event("a.b")), /return done\(\)/);
});

test("whole numbers that JavaScript would change are strings of their digits, and nothing else is touched", () => {
    const body = '{"a":9007199254740993,"b":[-123456789012345678901,9007199254740991],"c":"x\\"9007199254740993","d":0.12345678901234567,"e":12345678901234567e3}';
    const fake = new FakeHost().respond(200, body);
    const handler = plugin((event, host) => {
        assert.deepEqual(host.http.postJson("https://a.example", {}).json(), {
            a: "9007199254740993",
            b: ["-123456789012345678901", 9007199254740991],
            c: 'x"9007199254740993',
            d: 0.12345678901234567,
            e: 12345678901234567e3,
        });
        return done();
    });
    assert.deepEqual(fake.run(handler, event("a.b")), done());
});

test("state, settings, records and requests cross as JSON", () => {
    const fake = new FakeHost({ settings: { a: [1] }, state: { b: 2 } });
    fake.record("deal", 4, { title: "Old", kol: 1 }).respond(500, '{"error":1}').answer("deal.list", [{ did: 4 }]);
    const handler = plugin((event, host) => {
        assert.deepEqual([host.settings(), host.state.get("b"), host.state.get("c")], [{ a: [1] }, 2, undefined]);
        assert.equal(host.state.increment("b"), 3);
        host.state.set("d", { e: null });
        host.state.delete("b");
        assert.deepEqual(host.state.keys("", "c"), ["d"]);
        assert.deepEqual(host.crm.update("deal", "4", { title: "New", kol: 1 }), ["title"]);
        assert.deepEqual(host.crm.call("deal", "list"), [{ did: 4 }]);
        const answer = host.http.postJson("https://a.example", { f: "я" });
        assert.deepEqual([answer.status, answer.ok, answer.json()], [500, false, { error: 1 }]);
        return skip(event.fields.g);
    });
    assert.deepEqual(fake.run(handler, event("a.b", { g: "h" })), skip("h"));
    assert.deepEqual(fake.state, { d: '{"e":null}' });
    assert.deepEqual(fake.requests[0].body, '{"f":"я"}');
    for (const wrong of ["x", -1, 1.5, undefined]) {
        const update = plugin((_, host) => host.crm.update("deal", wrong, {}) && done());
        assert.equal(new FakeHost().run(update, event("a.b")).tag, "reject");
    }
});
