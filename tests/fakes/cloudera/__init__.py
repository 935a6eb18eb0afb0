"""A stand-in for a Cloudera AI workbench: real processes, each in a network of its own.

It follows the facts that docs/cloudera-ai.md lists. What it cannot show: real NFS timing, a real
mesh, GPU scheduling, image contents, and the exact text of the platform's refusals.
"""
