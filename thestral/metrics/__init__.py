"""What workers have counted, for those who read it: as dataclasses, and as Prometheus' text."""
