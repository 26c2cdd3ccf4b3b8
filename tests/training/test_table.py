import io

from rich.console import Console

from physiq_ray.progress import Display
from physiq_ray.training.events import BatchProgress, EpochDone, Resumed
from physiq_ray.training.table import EpochTable


def metrics(epoch, status):
    return {
        "epoch": epoch,
        "train_loss": 1.25,
        "train_accuracy": 0.5,
        "validation_loss": 0.75,
        "validation_accuracy": 0.625,
        "seconds": 12.34,
        "status": status,
    }


def plain_table(clock=lambda: 0.0):
    out = io.StringIO()
    return EpochTable(Display(Console(file=out, width=120), clock=clock), 50), out


def test_the_table_has_one_header_and_a_line_for_each_epoch():
    table, out = plain_table()
    table.handle(EpochDone(metrics(1, "✓ Best Model")))
    table.handle(EpochDone(metrics(2, "Wait 1/10")))
    assert out.getvalue().splitlines() == [
        "  Epoch  Train Loss  Train Acc  Val Loss   Val Acc      Time  Status",
        "   1/50      1.2500     50.00%    0.7500    62.50%    12.3 s  ✓ Best Model",
        "   2/50      1.2500     50.00%    0.7500    62.50%    12.3 s  Wait 1/10",
    ]


def test_a_log_gets_a_plain_line_every_half_minute_with_the_sums_of_all_ranks():
    now = [0.0]
    table, out = plain_table(lambda: now[0])
    table.handle(BatchProgress(1, "train", 0, 10, 20.0, 5, total=100))
    now[0] = 10.0
    table.handle(BatchProgress(1, "train", 1, 8, 16.0, 5, total=100))
    assert out.getvalue() == ""
    now[0] = 31.0
    table.handle(BatchProgress(1, "train", 0, 22, 14.0, 5, total=100))
    assert out.getvalue() == "  epoch 1/50 train: 30/100 photos loss 1.0000 acc 33.33%\n"
    assert "\x1b" not in out.getvalue()


def test_sums_start_again_with_each_phase():
    now = [0.0]
    table, out = plain_table(lambda: now[0])
    table.handle(BatchProgress(1, "train", 0, 100, 1.0, 1, total=100))
    table.handle(BatchProgress(1, "validation", 0, 5, 5.0, 5, total=10))
    now[0] = 31.0
    table.handle(BatchProgress(1, "validation", 0, 10, 10.0, 10, total=10))
    assert out.getvalue() == "  epoch 1/50 validation: 10/10 photos loss 1.0000 acc 100.00%\n"


def test_a_terminal_gets_a_live_bar_with_running_loss_and_accuracy():
    out = io.StringIO()
    display = Display(Console(file=out, width=120, force_terminal=True))
    table = EpochTable(display, 5)
    with display.live():
        table.handle(BatchProgress(1, "train", 0, 30, 45.0, 15, total=60))
        table.handle(EpochDone(metrics(1, "✓ Best Model")))
        table.handle(BatchProgress(1, "validation", 0, 4, 2.0, 3, total=8))
    shown = out.getvalue()
    assert "epoch 1/5 train" in shown
    assert "30/60" in shown
    assert "loss 1.5000 acc 50.00%" in shown
    assert "epoch 1/5 validation" in shown
    assert "✓ Best Model" in shown


def test_a_resumed_run_shows_the_earlier_lines_again():
    table, out = plain_table()
    table.handle(Resumed((metrics(1, "✓ Best Model"), metrics(2, "Wait 1/10"))))
    lines = out.getvalue().splitlines()
    assert lines[0] == "resumed after epoch 2"
    assert [line.split()[0] for line in lines[2:]] == ["1/50", "2/50"]


def test_a_run_that_resumes_in_an_epoch_names_the_photos_that_it_does_not_train_on_again():
    table, out = plain_table()
    table.handle(Resumed((metrics(1, "✓ Best Model"),), num_photos=1280))
    assert out.getvalue().splitlines()[0] == "resumed after epoch 1 and 1,280 photos of epoch 2"
