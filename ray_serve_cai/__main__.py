"""`python -m ray_serve_cai` is `cai`, for shells whose PATH lacks the script."""

from ray_serve_cai.cli.app import main

main()
