import unittest

import decide

MINUTE = 60_000


class Decide(unittest.TestCase):
    def test_accelerators_are_given_back_earlier(self):
        self.assertEqual(decide.limit_ms({}, False, None), 60 * MINUTE)
        self.assertEqual(decide.limit_ms({}, True, None), 20 * MINUTE)
        self.assertEqual(decide.limit_ms({"accelerator_minutes": 5}, True, None), 5 * MINUTE)

    def test_the_owners_policy_may_be_stricter_or_switch_it_off(self):
        self.assertEqual(decide.limit_ms({}, False, 10 * MINUTE), 10 * MINUTE)
        self.assertIsNone(decide.limit_ms({}, True, 0))

    def test_time_counts_from_the_last_use_or_the_end_of_the_grace(self):
        self.assertEqual(decide.remaining_ms(100, 0, None, None, 60), -40)
        self.assertEqual(decide.remaining_ms(100, 0, 70, None, 60), 30)
        self.assertEqual(decide.remaining_ms(100, 0, 70, 90, 60), 50)


if __name__ == "__main__":
    unittest.main()
