"""The version of the model that answered, in Serve's log line of the request."""

import logging
from collections import OrderedDict
from collections.abc import Iterable

from ray.serve import context

LOGGER = logging.getLogger("ray.serve")
MAX_WAITING = 10_000  # requests whose line is not written yet


class RequestLog(logging.Filter):
    """A filter of Serve's logger that adds model_version to the line of a request, and drops no line."""

    def __init__(self) -> None:
        """Start with no request; the caller adds the filter to the logger."""
        super().__init__()
        self._versions: OrderedDict[str, str] = OrderedDict()  # by Serve's own id of the request

    def note(self, versions: Iterable[str]) -> None:
        """Record the versions of the models that answered the current request."""
        if answered := ",".join(sorted(set(versions))):
            self._versions[_request_id()] = answered
            if len(self._versions) > MAX_WAITING:  # if lines are not written at all
                self._versions.popitem(last=False)

    def filter(self, record: logging.LogRecord) -> bool:
        """Add the version to the line of a request, which Serve writes in the context of the request."""
        if getattr(record, "serve_access_log", False):
            version = self._versions.pop(_request_id(), None)
            if version is not None:
                record.model_version = version
                record.msg = f"{record.getMessage()} model={version}"
                record.args = ()
        return True

    def flush(self) -> None:
        """Write the lines that Serve buffers, up to a thousand: a replica that ends would lose them."""
        for handler in LOGGER.handlers:
            handler.flush()


def _request_id() -> str:
    return str(context._get_serve_request_context()._internal_request_id)


def client_request_id() -> str:
    """Give the x-request-id of the response to the current request; empty outside of Serve."""
    return str(context._get_serve_request_context().request_id)
