"""JSON-RPC 2.0 on lines: requests read, answers and errors written. No I/O here."""

from typing import Any, Final

import msgspec

from tallyd.api.wire import Decoder, encode
from tallyd.model.problems import Code, Problem, ProblemError

RequestId = str | int | None


class Call(msgspec.Struct, frozen=True, gc=False):
    """A request. Without `id` it is a notification: carried out, not answered."""

    method: str
    jsonrpc: str = ""
    id: RequestId | msgspec.UnsetType = msgspec.UNSET
    params: msgspec.Raw = msgspec.Raw(b"{}")


class _Result(msgspec.Struct, frozen=True, gc=False):
    jsonrpc: str
    id: RequestId
    result: Any


_decode_call = msgspec.json.Decoder(Call).decode
_decode_batch = Decoder(list[msgspec.Raw])

PARSE_ERROR: Final = -32700
INVALID_REQUEST: Final = -32600
METHOD_NOT_FOUND: Final = -32601
INVALID_PARAMS: Final = -32602
INTERNAL_ERROR: Final = -32603
SERVER_ERROR: Final = -32000

_NUMBERS: Final = {
    Code.VALIDATION_FAILED: INVALID_PARAMS,
    Code.MALFORMED: INVALID_PARAMS,
    Code.INTERNAL: INTERNAL_ERROR,
    Code.POISON: INTERNAL_ERROR,
}
BATCH_MAX: Final = 1_000


class LineError(Exception):
    """A line that is no request; `answer` is what to say."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.answer = error_line(None, number, message, Code.MALFORMED)


def read_line(line: bytes) -> Call | list[msgspec.Raw]:
    """Read a line: one call, or the parts of a JSON-RPC batch, each to be read on its own.

    Raises:
        LineError: not JSON, not a request, or a batch of none or too many.
    """
    if line.lstrip()[:1] == b"[":
        try:
            parts: list[msgspec.Raw] = _decode_batch(line)
        except ProblemError as error:
            raise LineError(PARSE_ERROR, error.problem.message) from None
        if not 1 <= len(parts) <= BATCH_MAX:
            raise LineError(INVALID_REQUEST, f"a batch has 1 to {BATCH_MAX} requests")
        return parts
    return read_call(line)


def read_call(content: bytes | msgspec.Raw) -> Call:
    """Read one request.

    Raises:
        LineError: not JSON, or not a JSON-RPC 2.0 request.
    """
    try:
        call = _decode_call(content)
    except msgspec.ValidationError as error:
        raise LineError(INVALID_REQUEST, f"not a JSON-RPC 2.0 request: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise LineError(PARSE_ERROR, str(error)) from None
    except RecursionError:
        raise LineError(PARSE_ERROR, "JSON is nested too deeply") from None
    if call.jsonrpc != "2.0":
        raise LineError(INVALID_REQUEST, 'not a JSON-RPC 2.0 request: jsonrpc must be "2.0"')
    return call


def result_line(request_id: RequestId, result: Any) -> bytes:
    """Return an answer, as a line."""
    return encode(_Result("2.0", request_id, result)) + b"\n"


def error_line(request_id: RequestId, number: int, message: str, code: Code, **data: Any) -> bytes:
    """Return an error with its stable `data.code`, as a line."""
    error = {"code": number, "message": message, "data": {"code": code, **data}}
    return encode({"jsonrpc": "2.0", "id": request_id, "error": error}) + b"\n"


def problem_line(request_id: RequestId, problem: Problem, **data: Any) -> bytes:
    """Return a problem as an error."""
    if problem.field is not None:
        data["field"] = problem.field
    if problem.detail is not None:
        data["detail"] = problem.detail
    number = _NUMBERS.get(problem.code, SERVER_ERROR)
    return error_line(request_id, number, problem.sentence(), problem.code, **data)
