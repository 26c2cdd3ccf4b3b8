"""`physiq-ray review`: list, order, and serve the page on this machine until Ctrl-C or SIGTERM."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import uvicorn

from physiq_ray.config import SplitSettings
from physiq_ray.errors import PhysiqError, ReviewError, SettingError
from physiq_ray.machine import is_loopback
from physiq_ray.manifest import match_configured
from physiq_ray.review.candidates import find_candidates
from physiq_ray.review.catalogue import Catalogue, load_catalogue, read_label_file
from physiq_ray.review.journal import (
    Decision,
    Journal,
    find_journals,
    is_in_use,
    name_journal,
    read_journal,
)
from physiq_ray.review.merge import Decisions, MergeResult, merge
from physiq_ray.review.photos import Photos
from physiq_ray.review.server import build_app
from physiq_ray.review.session import Session
from physiq_ray.serving.access import Tokens
from physiq_ray.serving.run import stop_signals

MERGE_PAUSE_S = 1.0  # after a merge, so that many decisions share the next one


@dataclass(frozen=True)
class ReviewOptions:
    """The flags of a review. journal: a file, None for a new one in folder."""

    host: str
    port: int
    tokens: str | None
    folder: Path
    journal: Path | None
    drafts: str | None
    suspects: str | None
    feedback: str | None
    order: str
    merge: bool


@dataclass(frozen=True)
class ReviewResult:
    """How a review ended. merged: the last merge, None without --merge. problems: what was not complete."""

    journal: Path
    num_decided: int
    merged: MergeResult | None
    problems: tuple[str, ...]


def review(
    settings: SplitSettings,
    options: ReviewOptions,
    say: Callable[[str], None],
    on_ready: Callable[[str], None],
) -> ReviewResult:
    """Serve the page until SIGINT or SIGTERM.

    say: receives sentences about the start. on_ready: receives the address of the page.
    Raises PhysiqError: photos, labels, journals or tokens cannot be read, or the port is in use.
    """
    is_local = is_loopback(options.host)
    if not is_local and options.tokens is None:
        raise SettingError(
            f"--host {options.host}: other machines could see and label the photos; give --tokens FILE, or "
            "leave out --host"
        )
    tokens = Tokens(options.tokens)
    with contextlib.closing(_listen(options)) as listener:
        catalogue = load_catalogue(settings, options.feedback)
        listed_s = time.monotonic()
        for sentence in catalogue.failed_sources:
            say(f"not shown: {sentence}")
        path = options.journal or name_journal(options.folder, datetime.now(UTC))
        with Journal(path) as journal:
            session = _open_session(catalogue, options, journal, say)
            prepared_s = time.monotonic() - listed_s
            say(f"{catalogue.photos.num_rows} photos listed, and the review prepared in {prepared_s:.1f} s")
            app = build_app(session, Photos(catalogue.photos), tokens, only_loopback=is_local)
            with _merging(catalogue, session, [*_ended_journals(options, journal), path], options) as merger:
                _serve(app, listener, lambda: on_ready(_url(listener, options)))
    if options.journal is None and not path.stat().st_size:
        path.unlink()
    return ReviewResult(
        path,
        session.progress()["done"],
        merger.result if merger is not None else None,
        (*catalogue.failed_sources, *(merger.failures if merger is not None else ())),
    )


def _open_session(
    catalogue: Catalogue, options: ReviewOptions, journal: Journal, say: Callable[[str], None]
) -> Session:
    # The split is needed only to say which poses are thin; no photo is read for it.
    settings = catalogue.settings.model_copy(update={"group_near_duplicates": "no"})
    labels, _ = catalogue.read_labels(read_label_file(catalogue.label_file))
    candidates = find_candidates(
        catalogue,
        catalogue.match(labels),
        drafts=options.drafts,
        suspects=options.suspects,
        feedback=options.feedback,
        order=options.order,
    )
    for sentence in candidates.problems:
        say(sentence)
    report = match_configured(catalogue.listings, labels, catalogue.poses, settings).report
    thin = {
        pose_id: sentence
        for pose_id in catalogue.poses
        for sentence in (*report.thin_poses, *report.poses_without_photo)
        if f"{sentence}:".startswith((f"pose {pose_id}:", f"pose {pose_id} "))
    }
    if journal.torn is not None:
        say(f"{journal.path}: the last line was incomplete and was ignored: {journal.torn[:200]}")
    earlier: list[Decision] = []
    others = _other_journals(options, journal)
    for path in others:
        earlier += read_journal(path)[0]
    session = Session(catalogue, candidates, journal, earlier=earlier, thin=thin)
    if others:
        say(f"{len(others)} other journals in {options.folder}: their photos are not shown again")
    say(f"{session.total} photos to review, {session.progress()['done']} of them decided in {journal.path}")
    return session


def _other_journals(options: ReviewOptions, journal: Journal) -> list[Path]:
    return [path for path in find_journals(options.folder) if path.resolve() != journal.path.resolve()]


def _ended_journals(options: ReviewOptions, journal: Journal) -> list[Path]:
    """Give the other journals that no review writes now; one that does merges its journal itself."""
    return [path for path in _other_journals(options, journal) if not is_in_use(path)]


class _Merger:
    """Merges journals in a thread, soon after each decision, and at the end."""

    def __init__(self, catalogue: Catalogue, session: Session, paths: Sequence[Path]) -> None:
        self._catalogue, self._session, self._paths = catalogue, session, paths
        self._is_due, self._is_ending = threading.Event(), threading.Event()
        self.result: MergeResult | None = None
        self.failures: tuple[str, ...] = ()
        session.on_decision = self._is_due.set
        self._is_due.set()  # decisions of an earlier, killed review
        self._thread = threading.Thread(target=self._work, name="merge", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Merge what is left."""
        self._is_ending.set()
        self._is_due.set()
        self._thread.join()

    def _work(self) -> None:
        while not self._is_ending.is_set():
            self._is_due.wait()
            self._is_due.clear()
            start_s = time.monotonic()
            self._merge()
            # A merge into a large file takes seconds of a processor, which the page needs, too.
            self._is_ending.wait(MERGE_PAUSE_S + 4 * (time.monotonic() - start_s))
        self._merge()

    def _merge(self) -> None:
        try:
            decisions = Decisions(tuple(read_journal(path)[0] for path in self._paths))
            self.result = merge(self._catalogue, decisions, allow_conflicts=True)
        except PhysiqError as error:  # the journal keeps the decisions; the page shows the sentence
            self.failures = (f"not merged: {error}",)
        else:
            self.failures = ()
        self._session.conflicts = (*self.failures, *(self.result.conflicts if self.result else ()))


@contextlib.contextmanager
def _merging(
    catalogue: Catalogue, session: Session, paths: Sequence[Path], options: ReviewOptions
) -> Iterator[_Merger | None]:
    if not options.merge:
        yield None
        return
    merger = _Merger(catalogue, session, paths)
    try:
        yield merger
    finally:
        merger.close()


def _listen(options: ReviewOptions) -> socket.socket:
    """Open the port before the listing, which can take minutes. Raises ReviewError."""
    listener = socket.socket(socket.AF_INET6 if ":" in options.host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((options.host, options.port))
        listener.listen()  # otherwise another process could bind the port during the listing
    except OSError as error:
        listener.close()
        raise ReviewError(
            f"--host {options.host} --port {options.port}: cannot be listened on ({error.strerror}); give "
            "another --port or --host"
        ) from error
    return listener


def _url(listener: socket.socket, options: ReviewOptions) -> str:
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(options.host, options.host)
    host = f"[{host}]" if ":" in host else host
    return f"http://{host}:{listener.getsockname()[1]}/"


def _serve(app: object, listener: socket.socket, on_ready: Callable[[], None]) -> None:
    config = uvicorn.Config(
        app,  # type: ignore[arg-type]
        log_level="warning",
        access_log=False,
        server_header=False,
        lifespan="off",
        timeout_graceful_shutdown=5,
        h11_max_incomplete_event_size=1 << 16,
    )
    server = uvicorn.Server(config)
    with stop_signals() as is_stopped:
        # In a thread of its own, uvicorn leaves the signals to us.
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="http", daemon=True)
        thread.start()
        while not server.started and thread.is_alive():
            is_stopped.wait(0.01)
        on_ready()
        while thread.is_alive() and not is_stopped.wait(0.5):
            pass
        server.should_exit = True
        thread.join()
