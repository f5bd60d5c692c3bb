import unittest

import decide


class Decide(unittest.TestCase):
    def test_names_follow_the_pattern(self):
        self.assertIsNone(decide.fault({}, "train-7", "user"))
        self.assertIn("Try `my-model`", decide.fault({}, "My Model!", "user"))
        self.assertIsNone(decide.fault({"pattern": "[A-Z]+"}, "TRAIN", "user"))

    def test_reserved_words_are_refused(self):
        self.assertIn("reserved", decide.fault({"reserved": ["prod"]}, "prod-7", "user"))

    def test_roles_may_be_exempt(self):
        self.assertIsNone(decide.fault({"exempt_roles": ["admin"]}, "X", "admin"))

    def test_a_pattern_must_be_one(self):
        self.assertEqual(decide.problems({"pattern": "("})[0][0], "/pattern")
        self.assertEqual(decide.problems({}), [])


if __name__ == "__main__":
    unittest.main()
