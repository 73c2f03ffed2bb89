"""The helper against the fake host: which error becomes which reply, and what crosses as what."""

import unittest

from salesman import CrmError, DataError, HttpError, StateError, plugin, reject, retry, skip
from salesman_testing import FakeHost, event


def failing(error):
    @plugin
    def handle(event, host):
        raise error

    return handle


class Helper(unittest.TestCase):
    def test_each_error_becomes_the_reply_that_the_rust_sdk_makes_of_it(self):
        for error, expected in [
            (CrmError("transport", "no answer"), retry("the CRM could not be reached: no answer")),
            (CrmError("bad-answer", "<html>"), retry("the CRM gave an answer that is not the API's: <html>")),
            (CrmError("not-granted", "ask"), retry("ask")),
            (CrmError("refused", "ключ", "401"), retry("the CRM refused with code 401: ключ")),
            (CrmError("refused", "нет", "403"), reject("the CRM refused with code 403: нет")),
            (CrmError("refused", "нет"), reject("the CRM refused: нет")),
            (CrmError("invalid", "no object"), reject("the call can't be made: no object")),
            (CrmError("uncertain", "look"), reject("look")),
            (StateError("not-granted", "ask"), retry("ask")),
            (StateError("invalid", "large"), reject("the state call can't be made: large")),
            (HttpError("transport", "late"), retry("the request brought no answer: late")),
            (HttpError("not-granted", "ask"), retry("ask")),
            (HttpError("invalid", "url"), reject("the request can't be made: url")),
            (DataError("no `did`"), reject("no `did`")),
        ]:
            self.assertEqual(FakeHost().run(failing(error), event("a.b")), expected)

    def test_any_other_exception_fails_the_attempt_and_its_message_and_place_are_in_the_log(self):
        fake = FakeHost()
        with self.assertRaises(TypeError):
            fake.run(failing(TypeError("wrong")), event("a.b"))
        self.assertRegex(fake.lines[0], r"^error: TypeError: wrong\n.*test_salesman.py\", line \d+, in handle")
        with self.assertRaisesRegex(TypeError, r"return done\(\)"):
            FakeHost().run(plugin(lambda event, host: None), event("a.b"))

    def test_state_settings_records_and_requests_cross_as_json(self):
        fake = FakeHost(settings={"a": [1]}, state={"b": 2})
        fake.record("deal", 4, {"title": "Old", "kol": 1}).respond(500, '{"error":1}').answer("deal.list", [{"did": 4}])

        @plugin
        def handle(event, host):
            self.assertEqual((host.settings(), host.state.get("b"), host.state.get("c")), ({"a": [1]}, 2, None))
            self.assertEqual(host.state.increment("b"), 3)
            host.state.set("d", {"e": None})
            host.state.delete("b")
            self.assertEqual(host.state.keys("", "c"), ["d"])
            self.assertEqual(host.crm.update("deal", "4", {"title": "New", "kol": 1}), ["title"])
            self.assertEqual(host.crm.call("deal", "list"), [{"did": 4}])
            answer = host.http.post_json("https://a.example", {"f": "я"})
            self.assertEqual((answer.status, answer.ok, answer.json()), (500, False, {"error": 1}))
            return skip(event.fields["g"])

        self.assertEqual(fake.run(handle, event("a.b", {"g": "h"})), skip("h"))
        self.assertEqual(fake.state, {"d": '{"e":null}'})
        self.assertEqual(fake.requests[0].body.decode(), '{"f":"я"}')
        for wrong in ["x", -1, 1.5, None]:
            update = plugin(lambda event, host, wrong=wrong: host.crm.update("deal", wrong, {}))
            self.assertEqual(type(FakeHost().run(update, event("a.b"))), type(reject("")))
