"""A worker class for gunicorn: `gunicorn -k thestral.workers.ThestralWorker main:app`."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
from typing import Any, ClassVar

from gunicorn.workers.base import Worker

from thestral.config import Config
from thestral.logging.loggers import access_logger, error_logger
from thestral.net import tls
from thestral.net.sockets import duplicate
from thestral.process.importer import accelerate
from thestral.process.leaving import exit_in_time
from thestral.process.server import Server

BEAT = 1.0  # seconds between two calls of notify(), which tells the arbiter that the loop runs


class ThestralWorker(Worker):  # type: ignore[misc]
    """Serves gunicorn's application on gunicorn's sockets.

    gunicorn's settings apply for keepalive, graceful_timeout, max_requests, logs and TLS files. Set
    thestral's other options in CONFIG_KWARGS of a subclass.
    """

    CONFIG_KWARGS: ClassVar[dict[str, Any]] = {}
    # Filled in the arbiter, and inherited by the workers that it forks: what was read from pipes,
    # which can be read only once, and the warnings that have been logged.
    _read_once: ClassVar[dict[str, bytes]] = {}
    _warned: ClassVar[set[str]] = set()

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        with contextlib.suppress(Exception):  # the worker meets the same error, and reports it
            self.look_at_certificates()

    def look_at_certificates(self) -> None:
        """Do once for all workers, in the arbiter before it forks: read TLS files that
        are pipes, and warn of certificates that expire.
        """
        certificates = tls.load(self.make_config(""), quiet=True)
        if certificates is None:
            return
        take_over(error_logger, self.log.error_log)
        for text in certificates.current().warnings:
            if text not in self._warned:
                self._warned.add(text)
                error_logger.warning("%s", text)

    def init_signals(self) -> None:
        """Install gunicorn's handlers of SIGUSR1 and SIGABRT, and reset other signals: the Server
        handles SIGINT, SIGTERM and SIGQUIT once it runs.
        """
        for number in self.SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGUSR1, self.handle_usr1)
        signal.signal(signal.SIGABRT, self.handle_abort)
        signal.siginterrupt(signal.SIGUSR1, False)

    def init_process(self) -> None:
        """Have thestral log where gunicorn does, before gunicorn loads the application, which may
        change that.
        """
        take_over(error_logger, self.log.error_log)
        take_over(access_logger, self.log.access_log)
        super().init_process()

    def load_wsgi(self) -> None:
        """Load the application and check the options. If that fails before the worker has booted,
        gunicorn ends; if it failed later, gunicorn would restart the worker for ever.
        """
        accelerate(self.make_config(""))
        super().load_wsgi()
        self.server_config = self.make_config(self.wsgi)

    def run(self) -> None:
        server = GunicornServer(self.server_config, self)
        with exit_in_time(server):
            server.run([duplicate(listener.sock) for listener in self.sockets])
        self.alive = False

    def make_config(self, app: Any) -> Config:
        config = Config(app, **(self.options() | self.CONFIG_KWARGS))
        config.read_once = self._read_once
        return config

    def options(self) -> dict[str, Any]:
        """gunicorn's settings as options of Config."""
        limit = self.max_requests
        options: dict[str, Any] = {
            "timeout_keep_alive": float(self.cfg.keepalive),
            "timeout_graceful_shutdown": float(self.cfg.graceful_timeout),
            "limit_max_requests": None if limit == sys.maxsize else limit,
            "limit_max_requests_jitter": 0,  # gunicorn has added its own
            "log_config": None,
            "access_log": logs_requests(self.cfg),
            "access_log_format": self.cfg.access_log_format,
            "backlog": self.cfg.backlog,
            "forwarded_allow_ips": self.cfg.forwarded_allow_ips,
        }
        if self.cfg.is_ssl:
            options |= {
                "ssl_certfile": self.cfg.certfile,
                "ssl_keyfile": self.cfg.keyfile,
                "ssl_ca_certs": self.cfg.ca_certs,
                "ssl_cert_reqs": int(self.cfg.cert_reqs),
                "ssl_ciphers": self.cfg.ciphers,
            }
        return options


def take_over(logger: logging.Logger, gunicorns: logging.Logger) -> None:
    """Have a logger use the handlers of gunicorn's logger, which reopens their files at SIGUSR1."""
    logger.handlers = list(gunicorns.handlers)
    logger.propagate = gunicorns.propagate
    logger.setLevel(gunicorns.level)
    logger.disabled = False


def logs_requests(settings: Any) -> bool:
    """Whether gunicorn's own workers would log requests, by the rule of its Logger.access()."""
    configured = settings.logconfig or settings.logconfig_dict or settings.logconfig_json
    to_syslog = settings.syslog and not settings.disable_redirect_access_to_syslog
    return bool(settings.accesslog or configured or to_syslog)


class GunicornServer(Server):
    """A Server that notifies gunicorn's arbiter while its loop runs, and stops if that is gone."""

    has_manager = False  # the arbiter talks to systemd

    def __init__(self, config: Config, worker: ThestralWorker) -> None:
        super().__init__(config)
        self._worker = worker

    def announce(self) -> None:
        self._beat()

    def load_certificates(self) -> tls.Certificates | None:
        """Load the certificates without warnings, which the arbiter has logged; log warnings about
        renewed ones, of which the arbiter does not know.
        """
        certificates = tls.load(self.config, quiet=True)
        if certificates is not None:
            certificates.quiet = False
        return certificates

    def _beat(self) -> None:
        assert self._loop is not None
        self._worker.notify()
        if os.getppid() != self._worker.ppid:
            self.should_exit = True
        self._loop.call_later(BEAT, self._beat)
