"""Networks that SchNet was compared with; each takes its place in the training loop."""
