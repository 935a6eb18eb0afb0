"""Ray Serve replicas, the gateway in front of them, and everything that acts on both."""

# Before anything here imports Ray: the package sets what Ray reads on import.
import ray_serve_cai.cluster  # noqa: F401
