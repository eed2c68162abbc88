"""Programs that try to break it for long: run one as ``PYTHONPATH=tests python -m chaos.backfill`` (`make chaos`)."""
