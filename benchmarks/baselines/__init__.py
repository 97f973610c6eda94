"""Networks that SchNet was compared with; each takes its place in :func:`pyg_schnet.training.fit`."""
