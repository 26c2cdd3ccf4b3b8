import io
import re
import subprocess
import sys

from rich.console import Console

from physiq_ray.progress import Bars


def test_a_log_gets_one_line_per_label_every_ten_seconds():
    log, now_s = io.StringIO(), [0.0]
    with Bars(log, "photos", clock=lambda: now_s[0]) as bars:
        for second in range(25):
            now_s[0] = float(second)
            bars.update("s3://checkins", second, 100, f"{second} MB")
            if second > 5:
                bars.update("s3://workouts", second, 0)
    assert log.getvalue().splitlines() == [
        "  s3://checkins: 10/100 photos 10 MB",
        "  s3://workouts: 16 photos",
        "  s3://checkins: 20/100 photos 20 MB",
    ]


def last_frame(console):
    """Give the counts of the bars that were drawn last, by their descriptions."""
    text = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", console.file.getvalue())
    frames = [
        re.findall(r"^(.+? photos) +━*[╸╺]?━* +(\d+/\d+) ", frame, re.MULTILINE) for frame in text.split("\r")
    ]
    return dict([frame for frame in frames if frame][-1])


def test_a_terminal_shows_a_bar_for_each_label_and_a_total():
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    with Bars(console, "photos") as bars:
        bars.update("s3://[red]checkins", 5, 10, "1 MB")
        bars.restart()  # this also draws the bars for the last time
        assert last_frame(console) == {"s3://[red]checkins photos": "5/10"}
        bars.update("s3://[red]checkins", 5, 10, "1 MB")
        bars.update("s3://workouts", 1, 20)
        bars.restart()
        assert last_frame(console) == {
            "s3://[red]checkins photos": "5/10",
            "s3://workouts photos": "1/20",
            "all photos": "6/30",
        }
        bars.update("s3://next", 2, 4)
        bars.restart()
        assert last_frame(console) == {"s3://next photos": "2/4"}


def test_neither_rich_nor_ray_is_imported_for_a_log():
    code = (
        "import sys; from physiq_ray.progress import Bars\n"
        "with Bars(sys.stderr, 'photos') as bars: bars.update('a', 1, 2)\n"
        "print([name for name in ('rich', 'ray', 'torch') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"
