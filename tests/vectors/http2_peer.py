"""nghttp2's server session, as an oracle for FrameCodec: the nghttp2 within ngh2's module."""

from __future__ import annotations

from typing import Any

import ngh2._core
from cffi import FFI
from frames import Type, number
from vectors.http2 import USUAL, Limits, read_frames

ffi = FFI()
ffi.cdef("""
    typedef struct nghttp2_session nghttp2_session;
    typedef struct nghttp2_session_callbacks nghttp2_session_callbacks;
    typedef struct nghttp2_option nghttp2_option;
    typedef struct { size_t length; int32_t stream_id; uint8_t type, flags, reserved; } frame_hd;
    typedef struct { int32_t settings_id; uint32_t value; } nghttp2_settings_entry;
    int nghttp2_session_callbacks_new(nghttp2_session_callbacks **callbacks);
    void nghttp2_session_callbacks_del(nghttp2_session_callbacks *callbacks);
    void nghttp2_session_callbacks_set_on_frame_recv_callback(
      nghttp2_session_callbacks *callbacks,
      int (*callback)(nghttp2_session *, const frame_hd *, void *));
    void nghttp2_session_callbacks_set_on_data_chunk_recv_callback(
      nghttp2_session_callbacks *callbacks,
      int (*callback)(nghttp2_session *, uint8_t, int32_t, const uint8_t *, size_t, void *));
    int nghttp2_option_new(nghttp2_option **option);
    void nghttp2_option_del(nghttp2_option *option);
    void nghttp2_option_set_no_auto_window_update(nghttp2_option *option, int value);
    void nghttp2_option_set_builtin_recv_extension_type(nghttp2_option *option, uint8_t type);
    void nghttp2_option_set_no_closed_streams(nghttp2_option *option, int value);
    int nghttp2_session_server_new2(nghttp2_session **session,
      const nghttp2_session_callbacks *callbacks, void *data, const nghttp2_option *option);
    void nghttp2_session_del(nghttp2_session *session);
    int nghttp2_submit_settings(nghttp2_session *session, uint8_t flags,
      const nghttp2_settings_entry *entries, size_t count);
    ptrdiff_t nghttp2_session_mem_recv(nghttp2_session *session, const uint8_t *data, size_t n);
    ptrdiff_t nghttp2_session_mem_send(nghttp2_session *session, const uint8_t **data);
""")
lib = ffi.dlopen(ngh2._core.__file__)
END_STREAM = 0x1
BAD_CLIENT_MAGIC = -903


class Nghttp2:
    """A connection of nghttp2 that nobody answers on.

    Attributes:
        events: ("head", stream), ("body", stream, bytes) joined, ("end", stream),
            ("reset", stream, code) whoever resets it, None for the peer.
        failed: the code of the connection error.
    """

    def __init__(self, limits: Limits = USUAL) -> None:
        self.events: list[tuple[Any, ...]] = []
        self.failed: int | None = None
        self._begun: set[int] = set()
        self._on_frame = ffi.callback(
            "int(nghttp2_session *, const frame_hd *, void *)", self._take_frame
        )
        self._on_data = ffi.callback(
            "int(nghttp2_session *, uint8_t, int32_t, const uint8_t *, size_t, void *)",
            self._take_data,
        )
        callbacks = ffi.new("nghttp2_session_callbacks **")
        option = ffi.new("nghttp2_option **")
        session = ffi.new("nghttp2_session **")
        assert lib.nghttp2_session_callbacks_new(callbacks) == 0
        assert lib.nghttp2_option_new(option) == 0
        lib.nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks[0], self._on_frame)
        lib.nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks[0], self._on_data)
        lib.nghttp2_option_set_no_auto_window_update(option[0], 1)
        lib.nghttp2_option_set_builtin_recv_extension_type(option[0], Type.PRIORITY_UPDATE)
        made = lib.nghttp2_session_server_new2(session, callbacks[0], ffi.NULL, option[0])
        assert made == 0
        lib.nghttp2_session_callbacks_del(callbacks[0])
        lib.nghttp2_option_del(option[0])
        self._session = ffi.gc(session[0], lib.nghttp2_session_del)
        pairs = [(3, limits.streams), (6, limits.head), (8, int(limits.websocket)), (9, 1)]
        entries = ffi.new("nghttp2_settings_entry[]", pairs)
        assert lib.nghttp2_submit_settings(self._session, 0, entries, len(pairs)) == 0
        self._answers()

    def _take_frame(self, session: Any, head: Any, data: Any) -> int:
        stream = head.stream_id
        if head.type == Type.HEADERS and stream not in self._begun:
            self._begun.add(stream)
            self.events.append(("head", stream))
        if head.type in (Type.HEADERS, Type.DATA) and head.flags & END_STREAM:
            self.events.append(("end", stream))
        if head.type == Type.RST_STREAM:
            self.events.append(("reset", stream, None))
        return 0

    def _take_data(
        self, session: Any, flags: int, stream: int, data: Any, size: int, user: Any
    ) -> int:
        part = ffi.buffer(data, size)[:]
        if self.events and self.events[-1][:2] == ("body", stream):
            self.events[-1] = ("body", stream, self.events[-1][2] + part)
        else:
            self.events.append(("body", stream, part))
        return 0

    def _answers(self) -> None:
        """Note what it sends by itself."""
        sent = b""
        while (
            size := lib.nghttp2_session_mem_send(self._session, data := ffi.new("uint8_t **"))
        ) > 0:
            sent += ffi.buffer(data[0], size)[:]
        for frame in read_frames(sent):
            if frame.type == Type.RST_STREAM:
                self.events.append(("reset", frame.stream, number(frame.payload)))
            elif frame.type == Type.GOAWAY:
                self.failed = number(frame.payload[4:8])

    def feed(self, data: bytes) -> None:
        """Pass in bytes; nothing happens after a failure."""
        if self.failed is not None:
            return
        read = lib.nghttp2_session_mem_recv(
            self._session, ffi.from_buffer("uint8_t[]", data), len(data)
        )
        if read == BAD_CLIENT_MAGIC:
            self.failed = 1
            return
        assert read == len(data), read
        self._answers()
