"""Connections, streams and cycles: Python compiled through the .pxd beside each file.

Connection (one transport) makes Streams (one exchange each); each Stream drives a Cycle (one ASGI
scope).
"""
