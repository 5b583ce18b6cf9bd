import pytest

from tutelage.deploy.budgets import Budget, Needs, needs_text, parse_budget
from tutelage.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("1 MB, 2 ms, 8 MB ram", Budget(1e6, 2.0, 8e6)),
        ("64KiB", Budget(size_bytes=65536.0)),
        ("300 us", Budget(latency_ms=0.3)),
        ("1.5 s", Budget(latency_ms=1500.0)),
        ("1 MiB ram", Budget(memory_bytes=2.0**20)),
        ("900 B,0.5 ms", Budget(900.0, 0.5)),
    ],
)
def test_budgets_are_read(text, budget):
    assert parse_budget(text) == budget


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cannot read ''. Write it as"),
        ("1", "cannot read '1'"),
        ("1 mb", "unknown unit in '1 mb'. Allowed: B, kB, MB"),
        ("2 ms ram", "unknown unit in '2 ms ram'"),
        ("-1 MB", "cannot read '-1 MB'"),
        ("nan MB", "cannot read 'nan MB'"),
        ("0 MB", "'0 MB' must be a finite number above 0"),
        ("1e999 MB", "must be a finite number above 0"),
        ("2 ms, 3 s", "'3 s' limits latency a second time"),
        ("1 MB; 2 ms", "cannot read '1 MB; 2 ms'"),
    ],
)
def test_what_is_no_budget_is_refused(text, message):
    with pytest.raises(ConfigError, match=message):
        parse_budget(text)


def test_the_tightest_limit_counts():
    budget = Budget(1e6, 2.0, 8e6)
    assert budget.excess(Needs(5e5, 1.0, 2e6)) == 0.5
    assert budget.excess(Needs(5e5, 3.0, 2e6)) == 1.5
    assert budget.excess(Needs(5e5)) == 0.5  # what is not known is not judged
    assert Budget(latency_ms=1.0).excess(Needs(5e5)) == 0.0


def test_budgets_and_needs_in_words():
    assert str(Budget(1e6, 2.0, 8e6)) == "1 MB, 2 ms, 8 MB ram"
    assert needs_text(Needs(2048.0, 0.01234, None)) == "2.048 kB, 0.0123 ms"
