"""The samples with soft targets that the report, the explanation and the playground show."""

import pytest
import torch

from tutelage.pipeline import run, run_job


@pytest.mark.parametrize("seed", [0, 1])
def test_samples_show_the_student_that_is_delivered_and_the_baseline_of_its_seed(
    make_job, tmp_path, monkeypatch, seed
):
    def pick(arms, metric):
        return next(one for one in arms if (one.arm, one.seed) == ("distilled", seed))

    monkeypatch.setattr(run, "pick_student", pick)
    job = make_job(tmp_path)
    finished = run_job(job)
    assert finished.student.seed == seed
    assert finished.record.samples
    networks = {one.arm: one.selected for one in finished.arms if one.seed == seed}
    networks["teacher"] = finished.teacher.selected
    for sample in finished.record.samples:
        batch = job.test_reader[torch.tensor([sample.sample_id]), torch.tensor([0])]
        assert sample.logits.keys() == networks.keys()
        for name, network in networks.items():
            with torch.no_grad():
                logits = network.cpu().eval()(batch.inputs)[0]
            torch.testing.assert_close(torch.tensor(sample.logits[name]), logits)
