"""Task files: the shipped ones, and errors that name file, line and key but never a value."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partition.errors import TaskFileError
from partition.task import Message, Role, Task, TaskKind, WhenUnreachable, load_task, load_tasks

SHIPPED = Path(__file__).parents[3] / "edge_agent" / "tasks"
GOOD = 'name = "t"\nkind = "classify"\nlabels = ["a", "b"]\n'


def load(folder: Path, source: str | bytes) -> Task:
    path = folder / "task.toml"
    path.write_bytes(source if isinstance(source, bytes) else source.encode())
    return load_task(path)


def test_the_shipped_tasks() -> None:
    tasks = load_tasks(SHIPPED)
    assert list(tasks) == ["assistant", "cxr-triage", "report-impression"]
    triage = tasks["cxr-triage"]
    assert (triage.kind, triage.labels) == (TaskKind.CLASSIFY, ("normal", "abnormal"))
    assert triage.policy.when_unreachable is WhenUnreachable.QUEUE
    assert "StudyDescription" in triage.dicom_fields
    assert all(path.stem in tasks for path in SHIPPED.glob("*.toml"))
    assert not any(task.policy.allow_split for task in tasks.values())


def test_shipped_tasks_name_only_dicom_elements_with_text() -> None:
    from pydicom.datadict import dictionary_VR

    for task in load_tasks(SHIPPED).values():
        for keyword in task.dicom_fields:
            assert dictionary_VR(keyword) in {"CS", "LO", "LT", "AS", "ST", "SH"}


def test_defaults_are_those_of_the_dataclasses(tmp_path: Path) -> None:
    assert load(tmp_path, GOOD) == Task(name="t", kind=TaskKind.CLASSIFY, labels=("a", "b"))


@pytest.mark.parametrize(
    ("source", "line", "key"),
    [
        (GOOD.replace('"classify"', '"guess"'), 2, "kind"),
        (GOOD + "\n[limits]\nmax_output_tokens = 0\n", 6, "limits.max_output_tokens"),
        (GOOD + "\n[policy]\nlocal_treshold = 0.9\n", 6, "policy.local_treshold"),
        (GOOD + "\n[policy]\nlocal_threshold = 1.5\n", 6, "policy.local_threshold"),
        (GOOD + "\n[policy] # rules\ndates = 'blur'\n", 6, "policy.dates"),
        (GOOD + "\n[ policy ]\n'dates' = 'blur'\n", 6, "policy.dates"),
        (GOOD + "policy.dates = 'blur'\n", 4, "policy.dates"),
        (GOOD + "\n[prompt]\ntemplate = 'no place'\n", 5, "prompt"),
        (GOOD + "\n[prompt]\ntemplate = '{text} {text}'\n", 5, "prompt"),
        (GOOD + "\n[dicom]\nfields = ['Patient Name']\n", 6, "dicom.fields"),
        (GOOD + "policy = { dates = 'blur' }\n", 4, "policy.dates"),
        (GOOD + "limits = 3\n", 4, "limits"),
        (GOOD + "colour = 'red'\n", 4, "colour"),
        ('kind = "generate"\n', 1, "name"),
        ('name = "A b"\nkind = "generate"\n', 1, "name"),
        (GOOD.replace('["a", "b"]', '["a", ""]'), 3, "labels"),
        ("# comment\nname = 't'\nkind = 'classify'\nlabels = ['a']\n", 1, "file"),
    ],
)
def test_errors_name_file_line_and_key(tmp_path: Path, source: str, line: int, key: str) -> None:
    with pytest.raises(TaskFileError) as refusal:
        load(tmp_path, source)
    assert f"task.toml, line {line}, key '{key}': " in str(refusal.value)


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        (GOOD.replace('["a", "b"]', '["a", "a"]'), "must differ"),
        (GOOD.replace('["a", "b"]', '["a"]'), "at least two"),
        (GOOD.replace("classify", "generate"), "only a `classify` task has `labels`"),
        ("name = \n", "no valid TOML"),
        (b"\xff\xfe", "cannot be read as UTF-8"),
        (GOOD + "[policy]\nlocal_threshold = nan\n", "local_threshold"),
    ],
)
def test_other_errors(tmp_path: Path, source: str | bytes, complaint: str) -> None:
    with pytest.raises(TaskFileError, match=complaint):
        load(tmp_path, source)


def test_an_error_does_not_repeat_the_value(tmp_path: Path) -> None:
    with pytest.raises(TaskFileError) as refusal:
        load(tmp_path, GOOD + "[policy]\ndates = 'Quillfeather'\n")
    assert "Quillfeather" not in str(refusal.value)


def test_a_missing_file_and_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(TaskFileError, match=r"gone\.toml"):
        load_task(tmp_path / "gone.toml")
    with pytest.raises(TaskFileError, match="no such folder"):
        load_tasks(tmp_path / "gone")


def test_a_later_folder_replaces_tasks_of_the_same_name(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('name = "assistant"\nkind = "generate"\n')
    tasks = load_tasks(SHIPPED, tmp_path)
    assert tasks["assistant"].system == ""
    assert "cxr-triage" in tasks


def test_rendering_lays_the_template_round_the_last_user_message() -> None:
    task = Task(name="t", kind=TaskKind.GENERATE, system="Be brief.", template="Q: {text}?")
    turns = (
        Message(role=Role.USER, text="one"),
        Message(role=Role.ASSISTANT, text="1"),
        Message(role=Role.USER, text="two {text} {braces}"),
    )
    rendered = task.render(turns)
    assert [message.text for message in rendered] == [
        "Be brief.",
        "one",
        "1",
        "Q: two {text} {braces}?",
    ]


def test_rendering_keeps_the_callers_system_text() -> None:
    task = Task(name="t", kind=TaskKind.GENERATE, system="Be brief.")
    turns = (Message(role=Role.SYSTEM, text="Be long."), Message(role=Role.USER, text="x"))
    assert task.render(turns) == turns


def test_the_prompt_digest_changes_with_whatever_shapes_the_answer() -> None:
    base = Task(name="t", kind=TaskKind.CLASSIFY, labels=("a", "b"))
    others = [
        Task(name="t", kind=TaskKind.CLASSIFY, labels=("b", "a")),
        Task(name="t", kind=TaskKind.CLASSIFY, labels=("a", "b"), system="s"),
        Task(name="t", kind=TaskKind.CLASSIFY, labels=("a", "b"), template="x{text}"),
        Task(name="t", kind=TaskKind.GENERATE),
    ]
    assert len({task.prompt_sha256 for task in [base, *others]}) == 5
    assert Task(name="u", kind=base.kind, labels=base.labels).prompt_sha256 == base.prompt_sha256


@given(st.binary(max_size=80))
def test_any_bytes_give_a_task_or_one_error(
    tmp_path_factory: pytest.TempPathFactory, raw: bytes
) -> None:
    with pytest.raises(TaskFileError):
        load(tmp_path_factory.mktemp("task"), raw)
