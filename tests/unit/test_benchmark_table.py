"""The benchmarks' table and their arithmetic; what they measure is not tested here."""

from benchmarks.figures import Figure, at_least, at_most, paired, percentile, table, times


def test_a_table_says_of_each_figure_whether_it_holds() -> None:
    figures = [at_most("turn", 1.25, 1.0, times), at_least("workers", 1.95, 1.9, times), Figure("memory", "118 MB")]
    assert table(figures).splitlines() == [
        "| figure | target | measured | holds? |",
        "|---|---|---|---|",
        "| turn | <= 1.00x | 1.25x | **no** |",
        "| workers | >= 1.90x | 1.95x | yes |",
        "| memory |  | 118 MB |  |",
    ]


def test_a_slow_round_does_not_move_a_paired_ratio() -> None:
    assert paired([10.0, 200.0, 11.0], [5.0, 100.0, 5.5]) == 2.0


def test_a_percentile_is_one_of_the_values() -> None:
    assert percentile([3.0, 1.0, 2.0, 4.0], 0.99) == 4.0
    assert percentile([5.0], 0.5) == 5.0
