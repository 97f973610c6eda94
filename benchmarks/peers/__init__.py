"""Peers that run in environments of their own: how they are started, and what runs there."""
