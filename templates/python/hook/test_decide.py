import unittest

import decide


def body(devices, project="default", tag=None):
    kernels = [{"slots": {"cpu": "4", "cuda.device": devices}}]
    return {"session": {"kernels": kernels, "tag": tag}, "owner": {"project": project}}


class Decide(unittest.TestCase):
    def test_too_many_accelerators_are_denied_with_the_facts(self):
        verdict, reason, fields = decide.decide({}, body("3"))
        self.assertEqual(verdict, "deny")
        self.assertIn("at most 2 accelerators", reason)
        self.assertIn(("requested", "3"), fields)

    def test_exempt_projects_may_have_more(self):
        self.assertEqual(decide.decide({"exempt_projects": ["vision"]}, body("8", "vision", "x")), ("allow",))

    def test_sessions_are_tagged_with_their_project(self):
        self.assertEqual(decide.decide({}, body("1")), ("patch", {"session": {"tag": "default"}}))


if __name__ == "__main__":
    unittest.main()
