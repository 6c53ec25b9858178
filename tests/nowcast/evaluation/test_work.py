import os
import time

import pytest

from data_prep.schema import RefusedInput
from nowcast.evaluation.work import AHEAD, open_work


def power(base: int, exponent: int) -> int:
    if exponent < 0:
        raise ArithmeticError(f"no power {exponent}")
    time.sleep(0.02 * (exponent % 2))
    return base**exponent


def power_and_place(base: int, exponent: int) -> tuple[int, int, str | None]:
    return power(base, exponent), os.getpid(), os.environ.get("OMP_NUM_THREADS")


@pytest.fixture(scope="module")
def cluster():
    distributed = pytest.importorskip("distributed", reason="needs the extra 'cluster'")
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None
    ) as cluster:
        yield cluster.scheduler_address


def test_one_process_works_when_it_is_asked_for_the_next_result():
    asked = []

    def things():
        for number in range(5):
            asked.append(number)
            yield number

    with open_work(power, 2) as work:
        results = work(things())
        assert next(results) == 1
        assert asked == [0]
        assert list(results) == [2, 4, 8, 16]


def test_processes_give_results_in_order_and_share_the_cores_between_them():
    before = os.environ.get("OMP_NUM_THREADS")
    with open_work(power_and_place, 2, workers=2) as work:
        found = list(work(range(12)))
        results = work([1, -1, 2])
        assert next(results)[0] == 2
        with pytest.raises(ArithmeticError, match="no power -1"):
            next(results)
    assert [value for value, _, _ in found] == [2**number for number in range(12)]
    assert os.getpid() not in {process for _, process, _ in found}
    assert {threads for _, _, threads in found} == {str(max(1, os.cpu_count() // 2))}
    assert os.environ.get("OMP_NUM_THREADS") == before


def test_a_cluster_gives_results_in_order_and_is_not_filled_with_all_things(cluster):
    asked = []

    def things():
        for number in range(20):
            asked.append(number)
            yield number

    with open_work(power, 2, scheduler=cluster) as work:
        results = work(things())
        assert next(results) == 1
        assert len(asked) == 2 * AHEAD
        assert list(results) == [2**number for number in range(1, 20)]


def test_nothing_to_do_is_done_at_once(cluster):
    for where in ({}, {"scheduler": cluster}):
        with open_work(power, 2, **where) as work:
            assert list(work([])) == []


def test_a_scheduler_that_does_not_answer_is_refused(monkeypatch):
    import distributed

    def no_answer(*_, **__):
        raise OSError("timed out")

    monkeypatch.setattr(distributed, "Client", no_answer)
    with (
        pytest.raises(RefusedInput, match="tcp://127.0.0.1:9"),
        open_work(power, 2, scheduler="tcp://127.0.0.1:9"),
    ):
        pass
