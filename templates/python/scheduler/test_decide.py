import unittest

import decide


def books():
    """Two agents with cpu and mem: a busy small one and an idle large one."""
    return decide.Books(2, [0, 0], [True, True], [8, 8, 64, 64], [2, 2, 0, 0])


class Decide(unittest.TestCase):
    def test_important_sessions_come_first_then_old_ones(self):
        self.assertEqual(decide.order([0, 5, 0, 5]), [1, 3, 0, 2])

    def test_packed_fills_the_small_agent_and_spread_the_large_one(self):
        self.assertEqual(decide.choose(books(), 0, [2, 2], None, "packed"), (0, None))
        self.assertEqual(decide.choose(books(), 0, [2, 2], None, "spread"), (1, None))

    def test_what_is_lacking_is_told(self):
        self.assertEqual(decide.choose(books(), 1, [2, 2], None, "packed"), (None, "no-compatible-agent"))
        self.assertEqual(decide.choose(books(), 0, [99, 2], None, "packed"), (None, "no-room"))
        self.assertEqual(decide.choose(books(), 0, [7, 2], 0, "packed"), (None, "exceeds-capacity"))

    def test_kernels_share_what_is_left_and_a_plan_changes_nothing(self):
        all_books = books()
        kernels = [(0, [5, 5], None), (0, [5, 5], None)]
        self.assertEqual(decide.place(all_books, kernels, False, "packed"), ([0, 1], None))
        self.assertEqual(all_books.occupied, [[2, 2], [0, 0]])
        self.assertEqual(decide.place(all_books, kernels, True, "packed"), ([1, 1], None))


if __name__ == "__main__":
    unittest.main()
