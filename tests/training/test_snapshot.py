import pytest

from physiq_ray.errors import TrainingError
from physiq_ray.training.snapshot import COPY_FILE, SNAPSHOT_FILE, CopySnapshot, has_checkpoint


@pytest.fixture
def folder(tmp_path):
    run = tmp_path / "runs" / "first"
    run.mkdir(parents=True)
    return run


def test_a_run_without_a_list_has_no_checkpoint(folder):
    assert not has_checkpoint(str(folder))


def test_a_complete_list_is_not_changed(folder):
    (folder / SNAPSHOT_FILE).write_text('{"epoch": 2}')
    (folder / COPY_FILE).write_text('{"epoch": 1}')
    assert has_checkpoint(str(folder))
    assert (folder / SNAPSHOT_FILE).read_text() == '{"epoch": 2}'


@pytest.mark.parametrize("torn", ["", '{"epoch": 2, "check'])
def test_a_torn_list_is_replaced_by_that_of_the_previous_epoch(folder, torn):
    (folder / SNAPSHOT_FILE).write_text('{"epoch": 1}')
    CopySnapshot(str(folder)).after_report(None, [], None)
    (folder / SNAPSHOT_FILE).write_text(torn)
    assert has_checkpoint(str(folder))
    assert (folder / SNAPSHOT_FILE).read_text() == '{"epoch": 1}'


def test_a_torn_list_without_a_copy_is_named_with_its_remedy(folder):
    (folder / SNAPSHOT_FILE).write_text("{")
    with pytest.raises(TrainingError, match=r"checkpoint_manager_snapshot\.json: cut off.*delete it"):
        has_checkpoint(str(folder))


def test_an_unreachable_storage_does_not_stop_the_run():
    CopySnapshot("s3://no-such-bucket-anywhere/runs/first").after_report(None, [], None)
