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
from thestral.process.leaving import exit_in_time
from thestral.process.server import Server

BEAT = 1.0  # seconds between signs of life for the arbiter


class ThestralWorker(Worker):  # type: ignore[misc]
    """Serves gunicorn's application on gunicorn's sockets.

    gunicorn's keepalive, graceful_timeout, max_requests, logs and TLS files hold; options without a
    counterpart stand in CONFIG_KWARGS of a subclass.
    """

    CONFIG_KWARGS: ClassVar[dict[str, Any]] = {}
    # The arbiter's, which the workers have from it: what pipes held, and what was said already.
    _read_once: ClassVar[dict[str, bytes]] = {}
    _warned: ClassVar[set[str]] = set()

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        with contextlib.suppress(Exception):  # the worker will meet it, too, and say it
            self.look_at_certificates()

    def look_at_certificates(self) -> None:
        """Do in the arbiter, before it forks, what can be done once for all workers: read pipes,
        and warn of certificates that expire.
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
        """The Server takes SIGINT, SIGTERM and SIGQUIT when it runs; what else gunicorn sends is
        its own.
        """
        for number in self.SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGUSR1, self.handle_usr1)
        signal.signal(signal.SIGABRT, self.handle_abort)
        signal.siginterrupt(signal.SIGUSR1, False)

    def init_process(self) -> None:
        """Log where gunicorn does, before the application is loaded, which may change it."""
        take_over(error_logger, self.log.error_log)
        take_over(access_logger, self.log.access_log)
        super().init_process()

    def load_wsgi(self) -> None:
        """Read the options, too: gunicorn ends if that fails before the worker has booted, and
        would start the worker for ever if it failed later.
        """
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
    """Give a logger the handlers of gunicorn's, which reopens their files at SIGUSR1."""
    logger.handlers = list(gunicorns.handlers)
    logger.propagate = gunicorns.propagate
    logger.setLevel(gunicorns.level)
    logger.disabled = False


def logs_requests(settings: Any) -> bool:
    """Whether gunicorn's own workers would, by the rule of its Logger.access()."""
    configured = settings.logconfig or settings.logconfig_dict or settings.logconfig_json
    to_syslog = settings.syslog and not settings.disable_redirect_access_to_syslog
    return bool(settings.accesslog or configured or to_syslog)


class GunicornServer(Server):
    """A Server that shows gunicorn's arbiter that its loop runs, and stops when that is gone."""

    has_manager = False  # it is the arbiter who talks to systemd

    def __init__(self, config: Config, worker: ThestralWorker) -> None:
        super().__init__(config)
        self._worker = worker

    def announce(self) -> None:
        self._beat()

    def load_certificates(self) -> tls.Certificates | None:
        """The arbiter has said what there was to say, but knows nothing of renewals."""
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
