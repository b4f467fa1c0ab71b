from __future__ import annotations

import pytest

from trainables.target import Target


@pytest.mark.parametrize(
    ("subjects", "label"),
    [
        (("subj01",), "subj01"),
        (("subj01", "subj02", "subj03"), "subj01-03"),
        (("subj01", "subj03"), "subj01+03"),
        (("subj01", "subj02", "subj04", "subj05", "subj08"), "subj01-02+04-05+08"),
        (("anna", "bert"), "anna+bert"),
    ],
)
def test_label_draws_subjects_together_and_name_does_not(subjects: tuple[str, ...], label: str) -> None:
    target = Target("demo", subjects, "lh", "V1v")
    assert target.label == f"{label}/lh/V1v"
    assert target.name == f"{'+'.join(subjects)}/lh/V1v"
    assert target.of_subject(subjects[-1]).subjects == (subjects[-1],)
