"""The page in a real browser: what a coach sees."""

import base64
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from running import PAGE_TOKEN, ClosedService
from selenium import webdriver
from selenium.webdriver.chrome.service import Service as Driver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
CHROMEDRIVER = shutil.which("chromedriver")
FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-quic"),
    *("--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
TIMEOUT_S = 30
POSES = {"Front Lat Spread", "Back Double Biceps", "Abs & Thighs"}

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not (CHROMIUM and CHROMEDRIVER), reason="needs chromium and chromedriver on the PATH"),
]

# A file with these bytes, as the browser gives it to the page when it is dropped or pasted.
TRANSFER = """
const [data, name, type] = arguments;
const transfer = new DataTransfer();
transfer.items.add(new File([Uint8Array.from(atob(data), (c) => c.charCodeAt(0))], name, { type }));
"""
# The service is busy only for moments and only under load. So the page first gets these responses in their
# order; later requests go to the service.
STUB_ANSWERS = """
const answers = arguments[0].map(([status, headers, body]) => new Response(body, { status, headers }));
const fetchOriginal = window.fetch;
window.sent = [];
window.fetch = (...request) => {
  window.sent.push(performance.now());
  return answers.length ? Promise.resolve(answers.shift()) : fetchOriginal(...request);
};
"""
# The contrast of each visible text with its background, as WCAG 2 defines it.
CONTRASTS = """
const channels = (colour) => colour.match(/[\\d.]+/g).map(Number);
const luminance = (colour) => channels(colour).slice(0, 3)
  .map((value) => value / 255)
  .map((value) => value <= .04045 ? value / 12.92 : ((value + .055) / 1.055) ** 2.4)
  .reduce((sum, value, number) => sum + value * [.2126, .7152, .0722][number], 0);
const behind = (element) => {
  const colour = getComputedStyle(element).backgroundColor;
  return channels(colour)[3] === 0 ? behind(element.parentElement) : colour;
};
return [...document.querySelectorAll("main *")]
  .filter((element) => element.checkVisibility() && [...element.childNodes].some(
    (node) => node.nodeType === Node.TEXT_NODE && node.textContent.trim()))
  .map((element) => {
    const [dark, light] = [getComputedStyle(element).color, behind(element)]
      .map(luminance).sort((a, b) => a - b);
    return [element.textContent.trim(), (light + .05) / (dark + .05)];
  });
"""

MakePhoto = Callable[..., bytes]


class Page:
    """The page in a new window."""

    def __init__(self, browser: webdriver.Chrome) -> None:
        self.browser = browser

    def open(self, url: str) -> None:
        self.browser.get(url)

    def run(self, script: str, *args: object) -> Any:
        return self.browser.execute_script(script, *args)

    def find(self, selector: str) -> WebElement:
        return self.browser.find_element(By.CSS_SELECTOR, selector)

    def choose(self, *paths: Path) -> None:
        self.find("#files").send_keys("\n".join(str(path) for path in paths))

    def transfer(self, script: str, data: bytes, name: str = "photo.jpg", type: str = "image/jpeg") -> None:
        self.run(TRANSFER + script, base64.b64encode(data).decode(), name, type)

    def press(self, *keys: str) -> None:
        """Press keys at the current focus, as a keyboard does."""
        webdriver.ActionChains(self.browser).send_keys(*keys).perform()

    def emulate(self, command: str, **parameters: object) -> None:
        self.browser.execute_cdp_cmd(f"Emulation.{command}", parameters)

    def go_offline(self, offline: bool) -> None:
        conditions = {"offline": offline, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
        self.browser.execute_cdp_cmd("Network.enable", {})
        self.browser.execute_cdp_cmd("Network.emulateNetworkConditions", conditions)

    def wait(self, condition: Callable[[], Any]) -> Any:
        return WebDriverWait(self.browser, TIMEOUT_S, poll_frequency=0.05).until(lambda _: condition())

    def cards(self) -> list[WebElement]:
        return self.browser.find_elements(By.CSS_SELECTOR, "#answers > li")

    def answered(self, num_cards: int = 1) -> list[WebElement]:
        """Wait until there are that many cards, each with an answer or the reason why there is none."""
        unsettled = "#answers > li:not(.failed):has(table[hidden])"

        def settled() -> list[WebElement] | None:
            cards = self.cards()
            waiting = self.browser.find_elements(By.CSS_SELECTOR, unsettled)
            return cards if len(cards) == num_cards and not waiting else None

        found: list[WebElement] = self.wait(settled)
        return found

    def messages(self) -> list[str]:
        """The messages that the browser logged since the last call."""
        return [entry["message"] for entry in self.browser.get_log("browser")]

    def events(self, method: str) -> list[dict[str, Any]]:
        """The DevTools events of that name since the last call."""
        entries = self.browser.get_log("performance")
        found = [json.loads(entry["message"])["message"] for entry in entries]
        return [event["params"] for event in found if event["method"] == method]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('browser')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    chrome = webdriver.Chrome(options=options, service=Driver(executable_path=str(CHROMEDRIVER)))
    yield chrome
    chrome.quit()


@pytest.fixture
def blank(browser: webdriver.Chrome) -> Iterator[Page]:
    """Give a new window, with which all that a test emulates and stores ends."""
    first = browser.current_window_handle
    browser.switch_to.new_window("window")
    page = Page(browser)
    page.emulate("setDeviceMetricsOverride", width=1200, height=900, deviceScaleFactor=1, mobile=False)
    page.messages(), page.events("")
    yield page
    browser.close()
    browser.switch_to.window(first)


@pytest.fixture
def page(blank: Page, service: Any) -> Page:
    blank.open(service.url)
    return blank


@pytest.fixture
def photo(tmp_path: Path, make_photo: MakePhoto) -> Path:
    return saved(tmp_path / "photo.jpg", make_photo())


def saved(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def shares_of(card: WebElement) -> dict[str, float]:
    """Read the percentages next to the bars, from top to bottom."""
    rows = card.find_elements(By.CSS_SELECTOR, "tbody tr")
    texts = [
        (row.find_element(By.TAG_NAME, "th").text, row.find_element(By.CLASS_NAME, "share").text)
        for row in rows
    ]
    return {name: float(text.removesuffix(" %")) for name, text in texts}


def heading_of(card: WebElement) -> str:
    return card.find_element(By.TAG_NAME, "h2").text


def state_of(card: WebElement) -> str:
    return card.find_element(By.CLASS_NAME, "state").text


def test_a_chosen_photo_is_shown_beside_a_bar_for_each_pose(page: Page, photo: Path) -> None:
    page.choose(photo)

    [card] = page.answered()
    shares = shares_of(card)
    assert set(shares) == POSES
    assert list(shares.values()) == sorted(shares.values(), reverse=True)
    assert sum(shares.values()) == pytest.approx(100, abs=0.2)
    likeliest, share = next(iter(shares.items()))
    assert (heading_of(card), state_of(card)) == (likeliest, f"{share:.1f} % sure")
    assert card.find_element(By.CLASS_NAME, "file").text == "photo.jpg"
    image = card.find_element(By.TAG_NAME, "img")
    assert page.wait(lambda: image.get_property("naturalWidth")) == 120
    assert image.is_displayed()
    assert image.get_attribute("alt") == "Photo photo.jpg"


def test_the_bars_are_as_long_as_their_shares(page: Page, photo: Path) -> None:
    page.choose(photo)

    [card] = page.answered()
    lengths = page.run(
        "return [...document.querySelectorAll('.bar')].map((bar) =>"
        " 100 * bar.getBoundingClientRect().width / bar.parentElement.getBoundingClientRect().width)"
    )
    assert lengths == pytest.approx(list(shares_of(card).values()), abs=0.5)


def test_the_page_shows_the_probabilities_that_the_service_returns(
    page: Page, service: Any, make_photo: MakePhoto, photo: Path
) -> None:
    page.choose(photo)

    [card] = page.answered()
    answer = service.post(make_photo()).json()
    assert shares_of(card) == {
        pose["name"]: pytest.approx(100 * pose["probability"], abs=0.1) for pose in answer["probabilities"]
    }


def test_many_photos_are_all_answered_and_keep_their_order(
    page: Page, tmp_path: Path, make_photo: MakePhoto
) -> None:
    names = [f"{number}.jpg" for number in range(12)]
    paths = [saved(tmp_path / name, make_photo(seed)) for seed, name in enumerate(names)]

    page.choose(*paths[:2])
    page.answered(2)
    page.choose(*paths[2:])

    cards = page.answered(12)
    shown = [card.find_element(By.CLASS_NAME, "file").text for card in cards]
    assert shown == names[2:] + names[:2]
    assert all(set(shares_of(card)) == POSES for card in cards)


def test_the_same_photo_may_be_chosen_again(page: Page, photo: Path) -> None:
    page.choose(photo)
    page.answered(1)
    page.choose(photo)

    first, second = page.answered(2)
    assert shares_of(first) == shares_of(second)


@pytest.mark.parametrize("place", ["#drop", "h1"])
def test_a_photo_dropped_anywhere_is_answered(page: Page, make_photo: MakePhoto, place: str) -> None:
    page.transfer(
        f"const place = document.querySelector({place!r});"
        "for (const kind of ['dragover', 'drop']) {"
        "  const event = new DragEvent(kind, {dataTransfer: transfer, bubbles: true, cancelable: true});"
        "  place.dispatchEvent(event);"
        # If the page did not prevent the default, the browser would show the photo instead of the page.
        "  if (!event.defaultPrevented) throw new Error(`${kind} is not prevented`);"
        "}",
        make_photo(),
    )

    [card] = page.answered()
    assert set(shares_of(card)) == POSES
    assert "over" not in str(page.find("#drop").get_attribute("class"))


def test_the_box_shows_that_a_photo_is_dragged_over_the_page(page: Page) -> None:
    event = "new DragEvent('{}', {{bubbles: true, cancelable: true, relatedTarget: {}}})"
    is_marked = "return document.getElementById('drop').classList.contains('over')"

    page.run(f"document.body.dispatchEvent({event.format('dragover', 'null')})")
    assert page.run(is_marked)
    page.run(f"document.body.dispatchEvent({event.format('dragleave', 'document.body')})")
    assert page.run(is_marked)
    page.run(f"document.body.dispatchEvent({event.format('dragleave', 'null')})")
    assert not page.run(is_marked)


def test_a_pasted_photo_is_answered(page: Page, make_photo: MakePhoto) -> None:
    page.transfer(
        "document.body.dispatchEvent(new ClipboardEvent('paste', {clipboardData: transfer, bubbles: true}))",
        make_photo(format="PNG"),
        name="image.png",
        type="image/png",
    )

    [card] = page.answered()
    assert set(shares_of(card)) == POSES
    assert card.find_element(By.CLASS_NAME, "file").text == "image.png"


def test_a_photo_that_the_browser_cannot_show_is_answered(
    page: Page, tmp_path: Path, make_photo: MakePhoto
) -> None:
    page.choose(saved(tmp_path / "scan.tiff", make_photo(format="TIFF")))

    [card] = page.answered()
    assert set(shares_of(card)) == POSES
    page.wait(card.find_element(By.CSS_SELECTOR, ".photo p").is_displayed)
    assert card.find_element(By.CLASS_NAME, "photo").text == "No preview"
    assert not card.find_element(By.TAG_NAME, "img").is_displayed()


def damaged(data: bytes) -> bytes:
    return data[: len(data) // 2]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data: b"", "This file is empty."),
        (lambda data: b"no photo" * 100, "This is not a photo that can be read."),
        (damaged, "This photo is damaged"),
        (lambda data: data + bytes(5 * 2**20), "This photo is too large."),
    ],
    ids=["empty", "no photo", "damaged", "too large"],
)
def test_a_refused_file_is_shown_with_the_reason(
    page: Page, photo: Path, make_photo: MakePhoto, change: Callable[[bytes], bytes], words: str
) -> None:
    page.choose(saved(photo.with_name("wrong.jpg"), change(make_photo())), photo)

    wrong, right = page.answered(2)
    assert heading_of(wrong) == "No answer"
    assert state_of(wrong).startswith(words)
    assert not wrong.find_element(By.TAG_NAME, "button").is_displayed()  # a retry would give the same result
    assert set(shares_of(right)) == POSES


@pytest.mark.parametrize(
    "busy",
    [
        [503, {"Retry-After": "1"}, '{"error": {"code": "busy", "message": "try again"}}'],
        [429, {"Retry-After": "1"}, '{"error": {"code": "too_many_requests", "message": "try again"}}'],
        [503, {"Retry-After": "1"}, "<h1>503 Service Unavailable</h1>"],
    ],
    ids=["503", "429", "503 of a proxy"],
)
def test_a_request_to_a_busy_service_is_retried_after_the_time_that_it_gives(
    page: Page, photo: Path, busy: list[object]
) -> None:
    page.run(STUB_ANSWERS, [busy])

    page.choose(photo)

    page.wait(lambda: "busy; trying again in 1 s" in page.find("#answers").text)
    [card] = page.answered()
    assert set(shares_of(card)) == POSES
    first_ms, second_ms = page.run("return window.sent")
    assert second_ms - first_ms >= 1000


def test_after_five_busy_responses_the_page_waits_for_the_button(page: Page, photo: Path) -> None:
    busy = [503, {"Retry-After": "0.01"}, '{"error": {"code": "busy", "message": "try again"}}']
    page.run(STUB_ANSWERS, [busy] * 5)

    page.choose(photo)

    [card] = page.answered()
    assert state_of(card) == "The service is busy. Try again in a moment."
    assert len(page.run("return window.sent")) == 5
    card.find_element(By.TAG_NAME, "button").click()
    page.wait(lambda: set(shares_of(card)) == POSES)
    assert "failed" not in str(card.get_attribute("class"))


def test_an_unreachable_service_is_reported_and_the_button_retries(page: Page, photo: Path) -> None:
    page.go_offline(True)
    page.choose(photo)

    [card] = page.answered()
    assert heading_of(card) == "No answer"
    assert state_of(card) == "The service cannot be reached. Check the connection and try again."
    page.go_offline(False)
    card.find_element(By.TAG_NAME, "button").click()
    page.wait(lambda: set(shares_of(card)) == POSES)
    assert not card.find_element(By.TAG_NAME, "button").is_displayed()


def test_a_deleted_file_is_not_reported_as_an_unreachable_service(page: Page, photo: Path) -> None:
    page.go_offline(True)
    page.choose(photo)
    [card] = page.answered()
    page.go_offline(False)

    photo.unlink()
    card.find_element(By.TAG_NAME, "button").click()

    page.wait(lambda: state_of(card).startswith("This file cannot be read."))


@pytest.mark.parametrize("body", ["<h1>It works!</h1>", '{"status": "ok"}'])
def test_a_response_of_another_server_is_reported_and_the_next_photo_is_answered(
    page: Page, photo: Path, body: str
) -> None:
    page.run(STUB_ANSWERS, [[200, {}, body]])

    page.choose(photo, photo)

    first, second = page.answered(2)
    assert state_of(first) == (
        "The service gave no answer that can be read (status 200). Try again in a moment."
    )
    assert set(shares_of(second)) == POSES


def test_tab_moves_the_focus_to_the_file_field_and_shows_it(page: Page) -> None:
    page.press(Keys.TAB)

    assert page.run("return document.activeElement.id") == "files"
    ringed = (
        "return [...document.querySelectorAll('#drop *')].filter((element) => {"
        "  const style = getComputedStyle(element);"
        "  return style.outlineStyle === 'solid' && parseFloat(style.outlineWidth) >= 2 && style.opacity > 0;"
        "}).map((element) => element.textContent.trim())"
    )
    assert page.run(ringed) == ["Choose photos"]


def test_enter_opens_the_file_chooser(page: Page) -> None:
    page.browser.execute_cdp_cmd("Page.enable", {})
    page.browser.execute_cdp_cmd("Page.setInterceptFileChooserDialog", {"enabled": True})
    page.press(Keys.TAB, Keys.ENTER)

    [chooser] = page.wait(lambda: page.events("Page.fileChooserOpened"))
    assert chooser["mode"] == "selectMultiple"


def test_every_field_and_photo_has_a_name(page: Page, photo: Path) -> None:
    page.run("document.getElementById('access').hidden = false")
    page.choose(photo)
    page.answered()

    names = {
        field.get_attribute("id"): field.accessible_name
        for field in page.browser.find_elements(By.TAG_NAME, "input")
    }
    assert names["files"] == "Choose photos"
    assert names["token"] == "This service asks for a token"
    assert page.find("#answers img").accessible_name == "Photo photo.jpg"
    assert page.find("#answers table").accessible_name == "Probability of each pose"


def test_screen_readers_announce_only_the_results(page: Page, tmp_path: Path, photo: Path) -> None:
    page.run(STUB_ANSWERS, [[503, {"Retry-After": "0.01"}, "{}"]])
    page.run(
        "window.announced = [];"
        "for (const region of document.querySelectorAll('[aria-live], [role=status], [role=alert]'))"
        "  new MutationObserver(() => window.announced.push(region.textContent.trim()))"
        "    .observe(region, {childList: true, subtree: true, characterData: true});"
    )
    page.choose(photo, saved(tmp_path / "notes.jpg", b"no photo"))

    card, _ = page.answered(2)
    announced = page.wait(lambda: len(texts := page.run("return window.announced")) > 1 and texts)
    assert announced == [
        f"photo.jpg: {heading_of(card)}. {state_of(card)}",
        "notes.jpg: No answer. This is not a photo that can be read. Use JPEG, PNG, WebP, GIF, BMP or TIFF.",
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_has_enough_contrast(page: Page, photo: Path, scheme: str) -> None:
    page.emulate("setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    page.run("document.getElementById('access').hidden = false")
    page.choose(photo, saved(photo.with_name("notes.jpg"), b"no photo"))
    page.answered(2)

    contrasts = dict(page.run(CONTRASTS))
    assert {"Which pose is this?", "Choose photos", "Use it", "photo.jpg", "No answer", *POSES} <= set(
        contrasts
    )
    assert {text: ratio for text, ratio in contrasts.items() if ratio < 4.5} == {}
    is_dark = page.run("return getComputedStyle(document.body).backgroundColor") == "rgb(16, 19, 23)"
    assert is_dark == (scheme == "dark")


def test_on_a_phone_no_element_is_wider_than_the_screen(
    page: Page, tmp_path: Path, make_photo: MakePhoto
) -> None:
    page.emulate("setDeviceMetricsOverride", width=375, height=700, deviceScaleFactor=2, mobile=True)
    page.run("document.getElementById('access').hidden = false")
    long_name = "x" * 150 + ".jpg"
    page.choose(
        saved(tmp_path / long_name, make_photo(size=(1600, 900))),
        saved(tmp_path / f"notes-{long_name}", b"no photo"),
    )
    page.answered(2)

    scroll_width, width = page.run(
        "const page = document.documentElement; return [page.scrollWidth, page.clientWidth]"
    )
    assert width == 375
    assert scroll_width <= width
    right_ends = page.run(
        "return [...document.querySelectorAll('main *')].filter((element) => element.checkVisibility())"
        ".map((element) => element.getBoundingClientRect().right)"
    )
    assert max(right_ends) <= 375
    assert min(bar.size["width"] for bar in page.browser.find_elements(By.CLASS_NAME, "track")) >= 60


def test_the_camera_is_offered_on_touch_screens_only(page: Page) -> None:
    camera = page.find("label:has(#camera)")
    assert not camera.is_displayed()

    page.emulate("setDeviceMetricsOverride", width=375, height=700, deviceScaleFactor=2, mobile=True)
    page.emulate("setTouchEmulationEnabled", enabled=True)

    page.wait(camera.is_displayed)
    assert not page.find(".for-mouse").is_displayed()


def test_a_photo_from_the_camera_is_answered(page: Page, photo: Path) -> None:
    page.find("#camera").send_keys(str(photo))

    [card] = page.answered()
    assert set(shares_of(card)) == POSES


def test_the_page_sends_no_request_to_other_hosts_and_the_browser_logs_no_error(
    page: Page, service: Any, photo: Path
) -> None:
    page.choose(photo)
    page.answered()

    urls = [event["request"]["url"] for event in page.events("Network.requestWillBeSent")]
    requested = {url for url in urls if not url.startswith("blob:")}
    assert requested == {f"{service.url}{path}" for path in ("/", "/page.css", "/page.js", "/v1/predict")}
    assert page.messages() == []


def test_the_browser_enforces_the_content_security_policy_of_the_page(page: Page, service: Any) -> None:
    assert "script-src 'self'" in service.get("/").headers["Content-Security-Policy"]
    page.run(
        "const script = document.createElement('script');"
        "script.textContent = 'window.intruder = true';"
        "document.body.append(script);"
    )
    page.run(
        "fetch(arguments[0]).then(() => { window.outcome = 'sent' }, () => { window.outcome = 'refused' })",
        service.url.replace("127.0.0.1", "localhost"),
    )

    assert page.wait(lambda: page.run("return window.outcome")) == "refused"
    assert page.run("return window.intruder ?? null") is None
    messages = "\n".join(page.messages())
    assert "inline script violates" in messages
    assert "connect-src 'self'" in messages


def test_a_closed_service_is_opened_by_its_token_with_the_keyboard_alone(
    blank: Page, closed_service: ClosedService, photo: Path
) -> None:
    blank.open(closed_service.running.url)
    form, refusal = blank.find("#access"), blank.find("#refusal")
    assert not form.is_displayed()

    blank.choose(photo)
    blank.wait(form.is_displayed)
    [card] = blank.cards()
    assert (heading_of(card), refusal.text) == ("Waiting for a token …", "")

    blank.press("of-no-coach-at-all", Keys.ENTER)
    blank.wait(lambda: refusal.text == "The token was refused.")
    assert form.is_displayed()

    blank.press(PAGE_TOKEN, Keys.ENTER)
    [card] = blank.answered()
    assert heading_of(card) == "No known pose"
    likeliest, share = next(iter(shares_of(card).items()))
    assert state_of(card) == f"Likeliest would be {likeliest}, with {share:.1f} %."
    assert not form.is_displayed()
    assert blank.run("return document.activeElement.id") == "files"

    blank.choose(photo)  # the token is not required again
    blank.answered(2)
    assert not form.is_displayed()


def test_a_token_that_is_invalid_in_a_header_is_not_sent(page: Page, photo: Path) -> None:
    refused = [401, {}, '{"error": {"code": "unauthorised", "message": "…"}}']
    page.run(STUB_ANSWERS, [refused])
    page.choose(photo)
    page.wait(page.find("#access").is_displayed)

    page.press("für-die-Trainer-allein", Keys.ENTER)

    assert page.run("return document.getElementById('token').validity.patternMismatch")
    assert page.find("#access").is_displayed()
    assert len(page.run("return window.sent")) == 1
