"""The page in a real browser, used by the keyboard alone."""

import json
import random
import shutil
import signal
import statistics
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from reviewing import KEYS, POSES, Page, labels_in, running_review
from running import free_ports
from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.chrome.service import Service as Driver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from physiq_ray.cli import main

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
CHROMEDRIVER = shutil.which("chromedriver")
FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-quic"),
    *("--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
TIMEOUT_S = 30
TOKEN = "of-the-coaches-only"
# From the key press to the next photo on the screen, in the page's own time.
MEASURE = """
const done = arguments[arguments.length - 1];
const image = document.getElementById("image");
const before = image.dataset.row;
const start = performance.now();
const watch = () => {
  const isBusy = document.getElementById("photo").getAttribute("aria-busy") === "true";
  if (!isBusy && image.dataset.row !== before && image.complete) done(performance.now() - start);
  else requestAnimationFrame(watch);
};
document.getElementById("photo").dispatchEvent(
  new KeyboardEvent("keydown", { key: arguments[0], bubbles: true }));
watch();
"""

SHOWN_ROW = """
if (document.getElementById("photo").getAttribute("aria-busy") !== "false") return null;
return document.getElementById("image").dataset.row || "none";
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (CHROMIUM and CHROMEDRIVER), reason="needs chromium and chromedriver on the PATH"),
]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('browser')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    chrome = webdriver.Chrome(options=options, service=Driver(executable_path=str(CHROMEDRIVER)))
    yield chrome
    chrome.quit()


class Reader:
    """The page as a reviewer sees it."""

    def __init__(self, browser: webdriver.Chrome) -> None:
        self.browser = browser

    def open(self, url: str) -> None:
        self.browser.get(url)
        self.wait(lambda: self.text("#done") and self.row())

    def wait(self, condition: Any) -> Any:
        return WebDriverWait(self.browser, TIMEOUT_S, poll_frequency=0.01).until(lambda _: condition())

    def find(self, selector: str) -> Any:
        return self.browser.find_element(By.CSS_SELECTOR, selector)

    def text(self, selector: str) -> str:
        return str(self.find(selector).text)

    def row(self) -> str | None:
        """Give the row of the photo that is shown, "none" at the end, None while a photo is loaded."""
        return self.browser.execute_script(SHOWN_ROW)

    def key(self) -> str:
        return self.text("#name").rpartition("/")[2]

    def press(self, *keys: str) -> None:
        webdriver.ActionChains(self.browser).send_keys(*keys).perform()

    def label(self, key: str) -> str:
        """Press a key that decides, wait for the next photo; give the name of the decided photo."""
        name, row = self.key(), self.row()
        self.press(key)
        self.wait(lambda: self.row() not in (None, row))
        return name


@pytest.fixture
def reader(browser: webdriver.Chrome) -> Iterator[Reader]:
    first = browser.current_window_handle
    browser.switch_to.new_window("window")
    browser.get_log("browser")
    yield Reader(browser)
    browser.close()
    browser.switch_to.window(first)


def fill(folder: Path, count: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "photos").mkdir()
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 255, (30, 20, 3), np.uint8)
        Image.fromarray(pixels).resize((600, 900)).save(folder / f"photos/{number:03d}.jpg")
    poses = [{"id": key, "name": name} for key, name in POSES.items()]
    (folder / "poses.json").write_text(json.dumps(poses))
    return folder


def complete_lines_of(path: Path) -> list[dict[str, Any]]:
    """Read the lines of a journal whose writer may have been killed."""
    return [json.loads(line) for line in path.read_text().split("\n")[:-1]]


def journal_in(folder: Path) -> dict[str, int | None]:
    """Read what all journals of a folder say: name → the last pose that was not undone."""
    decided: dict[str, list[tuple[str, int | None]]] = {}
    for path in sorted(folder.glob("review-*.jsonl")):
        for line in complete_lines_of(path):
            chain = decided.setdefault(line["s3Filename"].rpartition("/")[2], [])
            if "undo" in line:
                chain[:] = [item for item in chain if item[0] != line["undo"]]
            else:
                chain.append((line["time"], line["poseId"]))
    return {name: chain[-1][1] for name, chain in decided.items() if chain}


def test_twenty_photos_are_labelled_by_the_keyboard_and_label_file_journal_and_page_agree(
    reader: Reader, tmp_path: Path
) -> None:
    folder = fill(tmp_path, 20)
    drafts = [
        {"uri": str(folder / "photos" / f"{number:03d}.jpg"), "poseId": 5, "draft": True}
        | {"confidence": number / 20, "margin": number / 20}
        for number in range(20)
    ]
    (folder / "drafts.jsonl").write_text("".join(json.dumps(draft) + "\n" for draft in drafts))
    expected: dict[str, int | None] = {}
    with running_review(folder, "--sources", "photos", "--drafts", "drafts.jsonl", "--merge") as page:
        reader.open(page.url)
        assert reader.key() == "000.jpg"
        assert "Suggestion: Back Double Biceps (0 %)" in reader.text("#state")
        for key in [*"12301230123012", " ", " "]:
            expected[reader.label(key)] = 5 if key == " " else KEYS[key]

        reader.press("u")  # takes back 015.jpg
        reader.wait(lambda: reader.key() == "015.jpg")
        expected["015.jpg"] = KEYS[("1")]
        reader.label("1")
        reader.press(Keys.ARROW_LEFT, Keys.ARROW_LEFT)
        reader.wait(lambda: reader.key() == "014.jpg")
        assert "Decided: Back Double Biceps" in reader.text("#state")
        expected[reader.label("3")] = 7  # a correction
        reader.press(Keys.ARROW_RIGHT)
        reader.wait(lambda: reader.key() == "016.jpg")

        reader.press("/")
        reader.press("019")
        reader.wait(lambda: reader.browser.find_elements(By.CSS_SELECTOR, "#found button"))
        reader.press(Keys.ENTER)
        reader.wait(lambda: reader.key() == "019.jpg")
        expected[reader.label("0")] = None
        reader.wait(lambda: reader.key() == "016.jpg")
        reader.press("z")
        reader.wait(lambda: reader.find("#zoom").get_attribute("aria-pressed") == "true")
        for key in "123":
            expected[reader.label(key)] = KEYS[key]
        reader.wait(lambda: reader.key() == "019.jpg")
        reader.press(Keys.ARROW_RIGHT)
        reader.wait(lambda: "No more photos" in reader.text("#empty"))
        assert reader.text("#done").startswith("20 of 20 photos done")
        shown = {
            row.find_element(By.TAG_NAME, "th").text: row.find_element(By.TAG_NAME, "td").text
            for row in reader.browser.find_elements(By.CSS_SELECTOR, "#counts tr")
        }
        # Read before the server ends, after which the page's next question for the progress fails.
        messages = reader.browser.get_log("browser")
    assert page.process.returncode == 0
    assert len(expected) == 20
    assert journal_in(folder) == expected
    assert labels_in(folder / "labels.json") == expected
    counts = {name: list(expected.values()).count(pose_id) for pose_id, name in POSES.items()}
    assert {name: text.split(",")[0] for name, text in shown.items()} == {
        name: f"0 + {count}" for name, count in counts.items()
    }
    assert messages == []  # nothing that the policy of the page forbids


@pytest.mark.long
def test_the_page_fits_a_phone_and_every_control_has_a_name(reader: Reader, tmp_path: Path) -> None:
    folder = fill(tmp_path, 2)
    with running_review(folder, "--sources", "photos") as page:
        reader.browser.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": 360, "height": 740, "deviceScaleFactor": 1, "mobile": True},
        )
        reader.open(page.url)

        wide = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert reader.browser.execute_script(wide) == 0
        buttons = reader.browser.find_elements(By.CSS_SELECTOR, "#poses button, #tools button")
        for button in buttons:
            assert button.accessible_name
            assert button.get_attribute("aria-keyshortcuts")
            assert button.rect["x"] >= 0
            assert button.rect["x"] + button.rect["width"] <= 360
        assert [button.text for button in buttons[:4]] == [
            *("Front Lat Spread 1", "Back Double Biceps 2", "Back Lat Spread 3", "No known pose 0"),
        ]
        assert reader.find("#image").accessible_name == "Photo 000.jpg"
        said = reader.find("#said")
        assert said.get_attribute("aria-live") == "polite"
        assert said.get_property("textContent") == "Photo 1 of 2. No suggestion."
        buttons[2].click()
        reader.wait(lambda: said.get_property("textContent") == "Photo 2 of 2. No suggestion.")
        focused = reader.browser.switch_to.active_element
        assert focused.get_attribute("id") == "photo"  # so that Space does not press the button again


@pytest.mark.long
def test_off_loopback_the_page_asks_for_the_token(reader: Reader, tmp_path: Path) -> None:
    folder = fill(tmp_path, 1)
    (folder / "tokens.txt").write_text(f"{TOKEN}\n")
    flags = ("--sources", "photos", "--host", "0.0.0.0", "--tokens", "tokens.txt")
    with running_review(folder, *flags) as page:
        reader.browser.get(page.url)
        reader.wait(lambda: reader.find("#token").is_displayed())
        reader.press("wrong", Keys.ENTER)
        reader.wait(lambda: reader.text("#refusal") == "The token was refused.")
        assert not reader.find("#work").is_displayed()
        reader.press(TOKEN, Keys.ENTER)
        reader.wait(lambda: reader.row() is not None)
        assert reader.key() == "000.jpg"


@pytest.mark.long
def test_photos_of_a_bucket_are_labelled_into_a_file_of_a_bucket(
    reader: Reader, tmp_path: Path, make_bucket: Any, read_bucket: Any
) -> None:
    folder = fill(tmp_path, 3)
    bucket = make_bucket({path.name: path.read_bytes() for path in (folder / "photos").iterdir()})
    labels = make_bucket({})
    flags = ("--sources", f"s3://{bucket}", "--labels", f"s3://{labels}/labels.json", "--merge")
    with running_review(folder, *flags) as page:
        reader.open(page.url)
        assert [reader.label(key) for key in ("1", "3", "0")] == ["000.jpg", "001.jpg", "002.jpg"]

    records = json.loads(read_bucket(labels)["labels.json"])
    assert {record["s3Filename"]: record["poseId"] for record in records} == {
        f"s3://{bucket}/000.jpg": 1,
        f"s3://{bucket}/001.jpg": 7,
        f"s3://{bucket}/002.jpg": None,
    }


@pytest.mark.long
def test_a_contradiction_with_the_label_file_is_shown(reader: Reader, tmp_path: Path) -> None:
    folder = fill(tmp_path, 2)
    with running_review(folder, "--sources", "photos", "--merge") as page:
        reader.open(page.url)
        (folder / "labels.json").write_text('[{"poseId": 1, "s3Filename": "000.jpg"}]')  # by somebody else
        reader.label("3")
        summary = "1 contradictions with the label file"
        reader.wait(lambda: reader.text("#conflicts summary") == summary)
        reader.find("#conflicts summary").click()
        assert "000.jpg: review says pose 7, the label says pose 1" in reader.text("#conflicts")
    assert labels_in(folder / "labels.json") == {"000.jpg": 1}
    assert page.process.returncode == 1


@pytest.mark.long
def test_a_key_press_shows_the_next_photo_in_less_than_50_ms(reader: Reader, tmp_path: Path) -> None:
    folder = fill(tmp_path, 60)
    times_ms = []
    with running_review(folder, "--sources", "photos") as page:
        reader.open(page.url)
        for _ in range(50):
            time.sleep(0.2)  # a person looks at the photo meanwhile
            times_ms.append(reader.browser.execute_async_script(MEASURE, "1"))
    assert statistics.median(times_ms) < 50, times_ms


def pose_key(name: str) -> str:
    """Give the key that this test presses for a photo."""
    return "1230"[int(name.removesuffix(".jpg")) % 4]


@pytest.mark.long
@pytest.mark.timeout(900)
def test_200_photos_are_labelled_although_the_review_is_killed_ten_times(
    reader: Reader, tmp_path: Path
) -> None:
    folder = fill(tmp_path, 200)
    [port] = free_ports(1)
    rng = random.Random(7)
    confirmed: dict[str, int | None] = {}
    num_kills = 0

    def label_until_it_ends(page: Page) -> None:
        reader.open(page.url)
        while not reader.text("#empty"):
            name = reader.key()
            row = reader.row()
            reader.press(pose_key(name))
            reader.wait(lambda row=row: reader.row() not in (None, row) or reader.text("#trouble"))
            if reader.text("#trouble"):
                assert page.process.wait(10) == -signal.SIGKILL
                return
            confirmed[name] = KEYS[pose_key(name)]

    while len(confirmed) < 200:
        with running_review(folder, "--sources", "photos", "--merge", port=port) as page:
            if num_kills < 10:
                killer = threading.Timer(rng.uniform(0.1, 0.9), page.process.kill)
                killer.start()
                num_kills += 1
            try:
                label_until_it_ends(page)
            except WebDriverException:  # killed while the page was loading
                assert page.process.wait(10) == -signal.SIGKILL
            if page.process.poll() is None and reader.text("#empty"):
                done = reader.text("#done")
                break

    assert num_kills == 10
    assert "No more photos" in reader.text("#empty")
    everything = {f"{number:03d}.jpg": KEYS["1230"[number % 4]] for number in range(200)}
    lines = [line for path in folder.glob("review-*.jsonl") for line in complete_lines_of(path)]
    assert len(lines) == 200  # none lost, none asked twice
    assert journal_in(folder) == everything
    assert confirmed.items() <= everything.items()
    num_own = len(complete_lines_of(max(folder.glob("review-*.jsonl"))))
    assert done.startswith(f"{num_own} of ")
    # The last review has merged the journals of the killed ones, too.
    assert labels_in(folder / "labels.json") == everything
    merge = ["labels", "merge", *map(str, folder.glob("review-*.jsonl")), "--sources", str(folder / "photos")]
    files = ["--labels", str(folder / "labels.json"), "--poses", str(folder / "poses.json")]
    assert main([*merge, *files]) in (0, 1)  # 1: a last line is incomplete
    assert labels_in(folder / "labels.json") == everything
    assert len(json.loads((folder / "labels.json").read_text())) == 200
