"""The HTTP application: every family of endpoints on one router."""

from collections.abc import Callable
from typing import Final

import structlog
from quart import Response, request
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException, MethodNotAllowed, RequestEntityTooLarge

from tallyd.api.bounds import TOO_LARGE
from tallyd.api.http import dodo, retempo, tanso
from tallyd.api.http.billing_admin import BillingAdmin
from tallyd.api.http.checkout import Checkouts
from tallyd.api.http.clocks import Clocks
from tallyd.api.http.credit_admin import CreditAdmin
from tallyd.api.http.credit_models import CreditModels
from tallyd.api.http.credit_schedules import CreditSchedules
from tallyd.api.http.credits import Credits
from tallyd.api.http.customers import Customers
from tallyd.api.http.dodo_balances import DodoBalances
from tallyd.api.http.dodo_credits import DodoCredits
from tallyd.api.http.dodo_customers import DodoCustomers
from tallyd.api.http.dodo_events import DodoEvents
from tallyd.api.http.dodo_meters import DodoMeters
from tallyd.api.http.dodo_plan_changes import DodoPlanChanges
from tallyd.api.http.dodo_products import DodoProducts
from tallyd.api.http.dodo_subscriptions import DodoSubscriptions
from tallyd.api.http.dodo_usage import DodoUsage
from tallyd.api.http.dodo_wallets import DodoWallets
from tallyd.api.http.entitlements import Entitlements
from tallyd.api.http.events import Events
from tallyd.api.http.family import Family, answer
from tallyd.api.http.holds import Holds
from tallyd.api.http.invoices import Invoices
from tallyd.api.http.plan_admin import PlanAdmin
from tallyd.api.http.plans import Plans
from tallyd.api.http.replays import Replays
from tallyd.api.http.retempo import Retempo
from tallyd.api.http.subscriptions import Subscriptions
from tallyd.api.http.usage import Usage
from tallyd.api.http.whatif import WhatIfRoutes
from tallyd.core import Core
from tallyd.model.event import event_uuid
from tallyd.model.problems import Code, Problem, ProblemError, not_found
from tallyd.ops.metrics import CONTENT_TYPE, metrics_page

BODY_TIMEOUT_S: Final = 30
NATIVE_HANDLERS: Final = (
    Events,
    Entitlements,
    Customers,
    Usage,
    Plans,
    Subscriptions,
    Invoices,
    Checkouts,
    Credits,
    Holds,
    PlanAdmin,
    BillingAdmin,
    CreditModels,
    CreditSchedules,
    CreditAdmin,
    Clocks,
    WhatIfRoutes,
)
DODO_PATHS: Final = ("/events", "/meters", "/credit-entitlements", "/customers", "/products", "/subscriptions")
DODO_HANDLERS: Final = (
    DodoEvents,
    DodoMeters,
    DodoCredits,
    DodoBalances,
    DodoCustomers,
    DodoWallets,
    DodoProducts,
    DodoSubscriptions,
    DodoPlanChanges,
    DodoUsage,
)
POOLS_NAMED_MAX: Final = 20
"""Pools that /readyz names when the books do not balance."""

_log = structlog.get_logger(__name__)


def make_app(core: Core, *, ready: Callable[[], bool] = lambda: True) -> QuartTrio:
    """Return the application. `ready` says whether new work is welcome."""
    app = QuartTrio("tallyd", static_folder=None, template_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = core.config.http.body_bytes_max
    app.config["BODY_TIMEOUT"] = BODY_TIMEOUT_S
    native = Family(core, tanso.render, Replays(core).once)
    for native_handlers in NATIVE_HANDLERS:
        native_handlers(core).register(app, native)
    _serve_operations(app, core, ready)
    app.before_request(_refuse_too_large)
    _answer_errors(app, native, _serve_dialects(app, core))
    return app


def _serve_dialects(app: QuartTrio, core: Core) -> dict[str, Family]:
    """Serve Dodo's and Retempo's endpoints; return the families by their paths."""
    dodo_family, retempo_family = Family(core, dodo.render), Family(core, retempo.render)
    for handlers in DODO_HANDLERS:
        handlers(core).register(app, dodo_family)
    Retempo(core).register(app, retempo_family)
    return {**dict.fromkeys(DODO_PATHS, dodo_family), retempo.EVENTS: retempo_family}


async def _refuse_too_large() -> None:
    if request.scope.get(TOO_LARGE):
        raise RequestEntityTooLarge


def _serve_operations(app: QuartTrio, core: Core, ready: Callable[[], bool]) -> None:
    async def healthz() -> Response:
        """Alive: the event loop turns."""
        return answer({"status": "ok"})

    async def readyz() -> Response:
        """Ready: the books can be written, they balance (P3), and new work is welcome."""
        if not ready() or core.writer.failed:
            return answer({"status": "unavailable"}, 503)
        await core.writer.touch()
        if core.writer.unbalanced:
            pools = [event_uuid(number) for number in sorted(core.writer.unbalanced)[:POOLS_NAMED_MAX]]
            return answer({"status": "unbalanced", "count": len(core.writer.unbalanced), "pools": pools}, 503)
        return answer({"status": "ready"})

    async def metrics() -> Response:
        return Response(metrics_page(core), content_type=CONTENT_TYPE)

    for view in (healthz, readyz, metrics):
        app.add_url_rule(f"/{view.__name__}", view_func=view)


def _answer_errors(app: QuartTrio, native: Family, dialects: dict[str, Family]) -> None:
    """Answer what no handler answered in the shape of the family the path belongs to."""

    def family() -> Family:
        for prefix, dialect in dialects.items():
            if request.path == prefix or request.path.startswith(f"{prefix}/"):
                return dialect
        return native

    async def http_error(error: HTTPException) -> Response:
        if isinstance(error, RequestEntityTooLarge):
            text = f"the body is larger than {app.config['MAX_CONTENT_LENGTH']} bytes; send fewer events at once"
            return family().problem(Problem(code=Code.TOO_LARGE, message=text))
        if error.code == 404:  # noqa: PLR2004 - the HTTP status itself
            return family().problem(not_found(f"there is nothing at {request.path}").problem)
        text = f"{error.name or 'bad request'}: {request.method} {request.path}"
        response = family().problem(Problem(code=Code.VALIDATION_FAILED, message=text))
        response.status_code = error.code or 400
        if isinstance(error, MethodNotAllowed) and error.valid_methods:
            response.headers["Allow"] = ", ".join(sorted(error.valid_methods))
        return response

    async def problem(error: ProblemError) -> Response:
        return family().problem(error.problem)

    async def crash(error: Exception) -> Response:
        _log.error("request crashed", path=request.path, exc_info=error)
        return family().problem(Problem(code=Code.INTERNAL, message="internal error; see the daemon's log"))

    app.register_error_handler(HTTPException, http_error)
    app.register_error_handler(ProblemError, problem)
    app.register_error_handler(Exception, crash)
