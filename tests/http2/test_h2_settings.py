"""Effects of the settings that a client sends."""

from apps import fixed
from frames import PREFACE, Setting, Type, headers, settings, window_update


def test_acknowledgement_comes_before_data_that_needs_the_new_window(serve):
    """The client relies on its settings once they are acknowledged: RFC 9113 section 6.5.3."""
    with serve(fixed(bytes(200_000))).client() as client:
        request = headers(1, client.encoder.encode(client.fields()), end=True)
        window = settings((Setting.INITIAL_WINDOW_SIZE, 1 << 24))
        client.send(PREFACE + window + window_update(0, 1 << 24) + request)
        client.wait(lambda: Type.DATA in client.frames)
        assert client.settings_acked == 1
        assert len(client.finished(1).body) == 200_000
