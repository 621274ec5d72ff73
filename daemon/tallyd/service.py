"""The composition root: what runs, in which order it starts and stops.

Start: own the data directory, open the books, put the catalog in force, listen, say ready. Stop: say so, stop
accepting, finish what is on its way, drain the writer, close the books. Whoever does not read is not waited for.
"""

import gc
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import hypercorn.config
import hypercorn.trio
import structlog
import trio

from tallyd import __version__
from tallyd.api.bounds import BoundedBodies
from tallyd.api.checkout_closing import close_pages
from tallyd.api.http.app import make_app
from tallyd.api.socket.methods import Methods
from tallyd.api.socket.server import SocketServer, listen_unix
from tallyd.clock import Clock, SystemClock
from tallyd.config import NOBODY, Config
from tallyd.core import Core, open_core
from tallyd.engine.catalog import CatalogError
from tallyd.model.problems import Code, Problem, ProblemError
from tallyd.ops.systemd import Notifier, inherited_sockets, keep_watchdog, watchdog_interval_s
from tallyd.payments.provider import open_provider
from tallyd.pricing.registry import Registry
from tallyd.store.lock import own_data_dir

HTTP_GRACE_S: Final = 2
REQUESTS_A_CONNECTION_MAX: Final = 1_000_000
DRAIN_MAX_S: Final = 1.5
SWITCH_INTERVAL_S: Final = 0.0005
GC_THRESHOLDS: Final = (50_000, 20, 50)

_log = structlog.get_logger(__name__)


class Service:
    """A running daemon with its interfaces.

    Args:
        config: the settings.
        registry: the pricing plugins; found by entry point when not given.
        clock: the time.
        on_ready: called once, when everything listens.

    Raises:
        PluginError, CheckoutPluginError: a plugin cannot be used.
        ConfigError: a secret of the payment plugin cannot be read.
    """

    def __init__(
        self,
        config: Config,
        *,
        registry: Registry | None = None,
        clock: Clock | None = None,
        on_ready: Callable[["Service"], None] = lambda _: None,
    ) -> None:
        self.config = config
        self._registry = registry or Registry(inline=config.plugins.inline, disabled=config.plugins.disabled)
        self._provider = open_provider(config.payments)
        self._clock = clock or SystemClock()
        self._on_ready = on_ready
        self._notifier = Notifier()
        self.stopping = trio.Event()
        self.http_address: str | None = None
        self.socket_path: str | None = None
        self.core: Core | None = None

    def stop(self) -> None:
        """Ask for a clean stop."""
        self.stopping.set()

    async def run(self) -> None:
        """Serve until stopped.

        Raises:
            DataDirBusyError: another daemon owns the data directory.
            CatalogError: the catalog cannot be used.
            CommitFailed: the books could not be written.
            OSError: an address cannot be used.
        """
        inherited = inherited_sockets()
        rpc = inherited.get("rpc")
        path = self.config.socket_path if rpc is None else rpc.getsockname()
        with own_data_dir(self.config.data_dir, path):
            async with open_core(
                self.config, registry=self._registry, clock=self._clock, provider=self._provider
            ) as core:
                self.core = core
                await self._serve(core, inherited)
        _log.info("stopped")

    async def _serve(self, core: Core, inherited: dict[str, socket.socket]) -> None:
        rpc = inherited.pop("rpc", None) or self._listen_rpc()
        http = [sock for name, sock in inherited.items() if name.startswith("http")] + self._listen_http()
        try:
            async with trio.open_nursery() as nursery:
                finished = [self._start_http(nursery, core, http)] if http else []
                server = SocketServer(Methods(core, self.reload), self.config.socket)
                if rpc is not None:
                    await nursery.start(server.serve, rpc)
                nursery.start_soon(self._watch, core)
                if core.provider is not None:
                    nursery.start_soon(close_pages, core, core.provider)
                self._say_ready(core)
                await self.stopping.wait()
                self._notifier.stopping()
                _log.info("stopping")
                server.finish()
                await self._wind_down(core, finished, [server.finished] if rpc else [])
                nursery.cancel_scope.cancel()
        finally:
            self._forget_rpc(rpc)

    # Starting

    def _listen_rpc(self) -> socket.socket | None:
        path = self.config.socket_path
        if path is None:
            return None
        self.socket_path = path
        return listen_unix(path, self.config.socket)

    def _forget_rpc(self, rpc: socket.socket | None) -> None:
        if self.socket_path is not None:
            Path(self.socket_path).unlink(missing_ok=True)
        if rpc is not None:
            rpc.close()

    def _listen_http(self) -> list[socket.socket]:
        listeners = []
        if self.config.http.bind != NOBODY:
            host, _, port = self.config.http.bind.rpartition(":")
            listener = socket.create_server(
                (host.strip("[]"), int(port)),
                family=socket.AF_INET6 if ":" in host else socket.AF_INET,
                backlog=1_024,
            )
            address = listener.getsockname()
            self.http_address = f"http://{host}:{address[1]}"
            listeners.append(listener)
        if self.config.http.unix is not None:
            listeners.append(listen_unix(self.config.http.unix, self.config.socket))
        return listeners

    def _start_http(self, nursery: trio.Nursery, core: Core, listeners: list[socket.socket]) -> trio.Event:
        finished = trio.Event()
        settings = hypercorn.config.Config()
        settings.bind = [f"fd://{listener.detach()}" for listener in listeners]
        settings.graceful_timeout = HTTP_GRACE_S
        settings.keep_alive_timeout = 75
        settings.keep_alive_max_requests = REQUESTS_A_CONNECTION_MAX
        settings.accesslog = None
        settings.errorlog = None
        settings.include_server_header = False
        app = BoundedBodies(
            make_app(core, ready=lambda: not self.stopping.is_set()),  # type: ignore[arg-type]
            bodies_bytes_max=self.config.http.bodies_bytes_max,
            body_bytes_max=self.config.http.body_bytes_max,
        )

        async def serve() -> None:
            serve_app: Any = hypercorn.trio.serve
            await serve_app(app, settings, shutdown_trigger=self.stopping.wait, mode="asgi")
            finished.set()

        nursery.start_soon(serve)
        return finished

    def _say_ready(self, core: Core) -> None:
        served = [
            f"http={self.http_address}" if self.http_address else "",
            f"http=unix:{self.config.http.unix}" if self.config.http.unix else "",
            f"socket={self.socket_path or 'inherited'}",
        ]
        _log.info(
            "ready",
            version=__version__,
            serving=" ".join(part for part in served if part),
            data_dir=str(self.config.data_dir),
            plans=core.catalogue.listed,
            plugins=self._registry.plugin_names(),
            payments=self.config.payments.provider or "none",
        )
        self._notifier.ready("serving")
        self._on_ready(self)

    # Running

    async def _watch(self, core: Core) -> None:
        interval_s = watchdog_interval_s()
        if interval_s is not None:
            await keep_watchdog(self._notifier, core.writer.touch, interval_s)

    async def reload(self) -> list[str]:
        """Put the catalog file in force again; a bad one is refused and the running one stays.

        Raises:
            ProblemError: what is wrong with the file.
        """
        assert self.core is not None, "the daemon runs"
        self._notifier.reloading()
        try:
            changed = await self.core.reload_catalog()
        except (CatalogError, OSError) as error:
            _log.error("catalog refused; the running one stays", problems=str(error).splitlines())
            raise ProblemError(Problem(code=Code.VALIDATION_FAILED, message=str(error))) from None
        else:
            _log.info("catalog in force", changed=changed)
            return changed
        finally:
            self._notifier.ready("serving")

    # Stopping

    async def _wind_down(self, core: Core, finished: list[trio.Event], answered: list[trio.Event]) -> None:
        """Wait for requests on their way, within limits; then make sure that all accepted work is durable.

        Hypercorn shields the write to a client: one that does not read would hold the process for as long as
        it likes. Once everything is durable there is nothing left to lose by leaving without it.
        """
        with trio.move_on_after(self.config.shutdown_s):
            for event in (*finished, *answered):
                await event.wait()
        with trio.move_on_after(DRAIN_MAX_S):
            await core.writer.drain()
        if not all(event.is_set() for event in finished):
            _log.warning("a client does not read its answer; leaving without it")
            self._forget_rpc(None)
            sys.stderr.flush()
            os._exit(0)


def prepare_process() -> None:
    """Raise the limit of open files, tune the switch between threads, and let the collector rest."""
    os.umask(0o027)  # the books are the owner's; sockets get the mode that is set for them
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)


async def run_with_signals(service: Service) -> None:
    """Run a service until SIGTERM or SIGINT; SIGHUP reloads the catalog."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_heed, service, signals)
            await service.run()
            nursery.cancel_scope.cancel()


async def _heed(service: Service, signals: Any) -> None:
    async for number in signals:
        if number == signal.SIGHUP:
            if service.core is not None:
                try:
                    await service.reload()
                except ProblemError:
                    continue  # it was logged; the running catalog stays
                except Exception:  # noqa: BLE001 - no catalog may end the daemon: the running one stays
                    _log.exception("catalog could not be read; the running one stays")
        else:
            service.stop()
