"""What {{name}} does, against a fake host: `python3 -m unittest`."""

import unittest

from handler import handle
from salesman import Entity, done, skip
from salesman_testing import FakeHost, event


class Handler(unittest.TestCase):
    def test_events_are_counted(self):
        fake = FakeHost(settings={"greeting": "seen"}, state={"count.{{event}}": 2})
        happened = event("{{event}}", {"clid": "7"}, entity=Entity("client", "7"))
        self.assertEqual(fake.run(handle, happened), done())
        self.assertEqual(fake.lines, ["info: seen: client 7, number 3 of {{event}}"])

    def test_an_event_about_nothing_is_left_alone(self):
        self.assertEqual(FakeHost().run(handle, event("{{event}}")), skip("the event is about no record"))
