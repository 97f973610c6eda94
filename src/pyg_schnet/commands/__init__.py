"""What the commands ``train``, ``evaluate`` and ``predict`` are made of."""
