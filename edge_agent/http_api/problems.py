"""What went wrong, as an OpenAI client expects to be told."""

from __future__ import annotations

import logging
import traceback

from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from edge_agent.errors import (
    EdgeError,
    InputError,
    OutboxError,
    OutboxFullError,
    RequestStoppedError,
)
from edge_agent.http_api.bodies import ApiError
from partition.errors import ContextLengthError, PartitionError
from protos.errors import InvalidRequestError, WireError

logger = logging.getLogger(__name__)


def translate(error: Exception) -> ApiError:
    """Say in OpenAI's form what went wrong; nothing of an unexpected error but its name and place is logged."""
    match error:
        case ApiError():
            return error
        case ContextLengthError():
            return ApiError(400, str(error), code="context_length_exceeded")
        case InputError():
            return ApiError(400, str(error))
        case RequestStoppedError():
            return ApiError(499, "the caller hung up", kind="server_error")
        case OutboxFullError():
            return ApiError(
                503, str(error), kind="server_error", code="outbox_full", retry_after_s=60.0
            )
        case InvalidRequestError():
            return ApiError(400, str(error))
        case WireError():  # the cloud refuses this request for good
            return ApiError(502, str(error), kind="server_error", code=error.reason.lower())
        case OutboxError() | EdgeError() | PartitionError():
            return ApiError(503, str(error), kind="server_error")
        case _:
            place = "".join(traceback.format_tb(error.__traceback__))  # code only, no values
            logger.error("a request failed: %s\n%s", type(error).__name__, place)
            return ApiError(500, "the agent failed; see its log", kind="server_error")


def response_of(error: ApiError) -> JSONResponse:
    """Put an error into its response, with the header that says when to come back."""
    headers = {}
    if error.retry_after_s is not None:
        headers["retry-after"] = f"{error.retry_after_s:.0f}"
    return JSONResponse(error.body, status_code=error.status, headers=headers)


async def answer_api_error(_http: HttpRequest, error: Exception) -> Response:
    """Answer what an endpoint raised."""
    assert isinstance(error, ApiError)
    return response_of(error)


async def answer_not_found(_http: HttpRequest, error: Exception) -> Response:
    """Answer a path or method that is not served."""
    status = getattr(error, "status_code", 404)
    return response_of(
        ApiError(status, "there is nothing here; see /v1/models for what can be asked")
    )
